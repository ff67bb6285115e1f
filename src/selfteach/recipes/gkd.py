"""The baseline with a larger teacher: generalized knowledge distillation (GKD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *


@settings
class GKD(Recipe):
    """Pull the student to a larger model, on its own answers and on given ones by turns.

    "On-Policy Distillation of Language Models" (arXiv 2306.13649, algorithm 1). With chance ``lmbda`` = λ the answers
    of a step are the student's own, else the data's (or, with ``seq_kd``, the teacher's); on either

        L = mean over answers of (1/|y|) Σ_t JSD_β( q(·|x, y_<t) ‖ p(·|x, y_<t) ),   m = β q + (1 − β) p

    over the full vocabulary, q the teacher, p the student, gradient through p only. β = 0 is KL(q‖p), β = 1 KL(p‖q).
    """

    name = "gkd"
    title = "Generalized Knowledge Distillation"
    source = "https://arxiv.org/abs/2306.13649"
    formula = "mean_y (1/|y|) Σ_t JSD_β(q ‖ p),  y ~ λ p + (1 − λ) data"
    plays = True
    presets = {
        "paper": {},
        "trl": {"lmbda": 0.5, "temperature": 0.9, "max_tokens": 128, "mean_over": "tokens"},
    }

    rollouts: Rollouts = Rollouts(max_tokens=64)
    optimization: Optimization = Optimization(
        lr=3e-4, prompts=32, warmup=2000, steps=40000, schedule="cosine"
    )
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    lmbda: UnitInterval = 1.0
    """λ, how often a step's answers are the student's own (1: on-policy; 0: supervised)."""
    beta: UnitInterval = 0.5
    """β of the generalized JSD: 0 forward KL, 1 reverse KL (paper: 0.1, 0.5, 0.9)."""
    seq_kd: bool = False
    """Answers that are not the student's own are the teacher's, in the place of the data's."""
    reference: str = "solution"
    """The private field that holds the data's answers."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-answer token means (paper), or mean over all tokens (TRL)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if tools.random("source", shared=True).random() < self.lmbda:
            return tools.play(prompts, self.rollouts.per_prompt)
        if self.seq_kd:
            return tools.play(prompts, self.rollouts.per_prompt, role=TEACHER)
        return tools.quote(prompts, self.reference)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.beta),
            mean_over=self.mean_over,
        )
