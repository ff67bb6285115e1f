"""Generalized on-policy distillation with reward extrapolation (ExOPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from selfteach.recipes.kit import *

INITIAL = "initial"


@settings
class ExOPD(Recipe):
    """Go past the teacher, along the way that leads from a reference to it, on the student's own tokens.

    "Learning beyond Teacher" (https://arxiv.org/abs/2602.12125). The student π answers; a teacher π* and a reference
    π_ref score the sampled tokens y_t under the same prompt. On-policy distillation maximizes
    E_y[ Σ_t log π*/π_ref ] − KL(π‖π_ref); here the reward counts λ times:

        A_t = (log π*(y_t) − log π(y_t)) + (λ − 1) (log π*(y_t) − log π_ref(y_t))            without gradient
        L = mean over tokens of −min( π/π_rollout, is_cap ) A_t log π(y_t)

    The optimum at one position is ∝ π_ref^(1−λ) π*^λ. λ = 1 is plain distillation, without a reference. All
    log-probs in nats, at the sampling temperature. With one update per batch PPO's ratio is 1 and its clip never acts.
    """

    name = "exopd"
    title = "Generalized On-Policy Distillation with Reward Extrapolation"
    source = "https://arxiv.org/abs/2602.12125"
    formula = "mean_t −min(π/π_rollout, 5) [ log π*/π + (λ−1) log π*/π_ref ] log π"
    presets = {
        "same-size": {},
        "strong-to-weak": {"teacher": "Qwen/Qwen3-30B-A3B-Instruct-2507", "steps": 100},
        "opd": {"reward_scale": 1.0},
    }

    rollouts: Rollouts = Rollouts(max_tokens=16384)
    optimization: Optimization = Optimization(lr=1e-5, steps=50, prompts=1024)
    student_thinking: bool | None = False
    """Thinking flag of the chat template, of student, teachers and reference alike: off in the paper."""
    teacher: str = "Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500"
    """Who is distilled: a model (folder, hub id or arena:NAME), or one for each tag: "math=MODEL,code=MODEL"."""
    reference: str = INITIAL
    """Where the reward starts from: "initial", the student at step 0, or a model such as the teacher's own base
    ("reward correction", strong to weak)."""
    reward_scale: NonNegativeFloat = 1.25
    """λ, how much the reward log(teacher/reference) counts: 0 stays at the reference, 1 is plain distillation, above 1
    extrapolates (1.5 was unstable in the paper)."""
    estimator: Literal["sampled", "full"] = "sampled"
    """Estimate the gradient from the sampled token (paper), or take it over the whole vocabulary (not in the paper: the
    same expectation without its noise, for small batches)."""
    is_cap: PositiveFloat | None = 5.0
    """Upper bound on the weight π/π_rollout of a token (released code; none: unbounded)."""

    def __post_init__(self) -> None:
        require(bool(self.reference), 'reference is empty: name a model, or "initial"')
        routes(self.teacher)

    @property
    def teachers(self) -> Mapping[str, Role]:
        found = experts(self.teacher, self.student_thinking)
        if self.reward_scale == 1:
            return found
        weights = Frozen() if self.reference == INITIAL else External(self.reference)
        return {**found, REFERENCE: Role(weights, Plain(), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        names = [name for name in self.teachers if name != REFERENCE]
        seen = self.seen(stats, names)
        if self.estimator == "full":
            for name in names:
                yield Match(
                    name=name.replace(TEACHER, "distill"),
                    target=FromRole(name)
                    if self.reward_scale == 1
                    else Extrapolation(name, REFERENCE, self.reward_scale),
                    divergence=ReverseKL(),
                    mean_over=seen,
                )
            return
        scores, _ = taught(stats, names)
        if self.reward_scale != 1:
            scores = scores + (self.reward_scale - 1) * (scores - stats.log_prob(REFERENCE))
        yield PolicyGradient(
            name="distill",
            advantage=LogRatio(scores, temperature=self.temperature),
            gate=stats.importance(self.is_cap),
            where=seen,
            mean_over="selected",
        )

    def seen(self, stats: Statistics, names: Sequence[str]) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the tokens that one of the teachers scored, and the reference where the reward reads it."""
        found = torch.stack([stats.seen(name) for name in names]).any(dim=0)
        return found if self.reward_scale == 1 else found & stats.seen(REFERENCE)
