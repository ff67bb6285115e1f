"""Offline on-policy distillation (Lightning OPD), rollouts and the teacher's scores of them stored once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *


@settings
class LightningOPD(Recipe):
    """On-policy distillation whose answers are sampled once and scored once, after the teacher's own text was imitated.

    Lightning OPD (arXiv 2604.13010). Stage "sft" imitates the teacher's text (``Imitate``); its end is π_ref. Then
    π_ref answers ``stored`` prompts once and the teacher π_T scores the tokens y_t once; in training only the student π
    moves:

        A_t = clip( log π_T(y_t) − log π(y_t), ± clip_advantage )              without gradient, in nats
        L = mean over rollouts y ~ π_ref of Σ_t −A_t log π(y_t)

    There is no importance weight π/π_ref: at π = π_ref the gradient is that of online distillation, at π = π_T both
    vanish. Between, the two differ by a covariance with π/π_ref, which acts as a trust region around π_ref. This holds
    if the teacher of both stages is the same; another one adds a bias, so that two names are refused.
    """

    name = "lightning-opd"
    title = "Lightning On-Policy Distillation"
    source = "https://arxiv.org/abs/2604.13010"
    formula = "mean_y Σ_t −clip( log π_T/π, ±τ ) log π,  y ~ π_ref"
    sizes = {
        **Recipe.sizes,
        "sft_steps": "steps",
        "sft_prompts": "stored",
        "sft_batch": "prompts",
        "sft_max_tokens": "tokens",
    }
    presets = {
        "4b": {},
        "8b": {"teacher": "Qwen/Qwen3-32B"},
        "30b-a3b": {"teacher": "Qwen/Qwen3-30B-A3B-Thinking-2507"},
        "released": {"mean_over": "sequences"},
        "online": {
            "mean_over": "sequences",
            "per_prompt": 4,
            "temperature": 0.8,
            "top_p": 1.0,
            "stored": 0,
            "prompts": 64,
        },
    }

    rollouts: Rollouts = Rollouts(temperature=0.7, top_p=0.9, max_tokens=4096, stored=17000)
    optimization: Optimization = Optimization(
        lr=2e-6, steps=150, prompts=256, weight_decay=0.1, betas=(0.9, 0.98)
    )
    teacher: str = "Qwen/Qwen3-8B"
    """The model that is distilled: a folder, a hub id or arena:NAME (paper: Qwen3-8B for a 4B student)."""
    sft_teacher: str = ""
    """Who writes the text of stage "sft", or wrote what the model given was fine-tuned on (empty: the same teacher)."""
    allow_inconsistent: bool = False
    """Let sft_teacher and teacher differ, to see what it costs."""
    sft_steps: NonNegativeInt = 3000
    """Steps of stage "sft" (0: none, the model given was fine-tuned already)."""
    sft_prompts: PositiveRows = 300000
    """Prompts that the teacher answers for stage "sft"."""
    sft_batch: PositiveRows = 100
    """Prompts a step of stage "sft" (not stated: one pass over its prompts)."""
    sft_lr: PositiveFloat = 8e-5
    """Peak learning rate of stage "sft": cosine, a tenth of the steps to warm up."""
    sft_max_tokens: PositiveInt = 16384
    """Longest answer of stage "sft", in tokens."""
    clip_advantage: PositiveFloat | None = None
    """τ, the bound on |A_t| in nats (Algorithm 1 has one without its value; released code has none)."""
    loss_temperature: PositiveFloat | None = 1.0
    """Temperature of all log-probs in the loss (1: the formula as it stands; none: the sampling temperature)."""
    mean_over: Literal["rollouts", "sequences", "tokens"] = "rollouts"
    """Token sums, mean over rollouts (paper); mean of token means (released code); or mean over all tokens."""

    def __post_init__(self) -> None:
        require(bool(self.teacher), "teacher is empty: name a model")
        require(
            self.allow_inconsistent or self.sft_teacher in ("", self.teacher),
            f"sft_teacher {self.sft_teacher!r} is not the teacher {self.teacher!r}, which biases the gradient: "
            "use one teacher, or --allow-inconsistent",
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        if self.sft_steps == 0:
            return {"distill": self}
        imitate = Imitate(
            rollouts=replace(
                self.rollouts, per_prompt=1, max_tokens=self.sft_max_tokens, stored=self.sft_prompts
            ),
            optimization=replace(
                self.optimization,
                lr=self.sft_lr,
                steps=self.sft_steps,
                prompts=self.sft_batch,
                schedule="cosine",
                warmup=self.sft_steps // 10,
            ),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            teacher=self.sft_teacher or self.teacher,
        )
        return {"sft": imitate, "distill": self}

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking, signal="sampled")}

    @property
    def temperature(self) -> float:
        return self.loss_temperature or self.rollouts.temperature

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield PolicyGradient(
            name="distill",
            advantage=LogRatio(stats.log_prob(TEACHER), self.clip_advantage, self.temperature),
            informed_by={TEACHER: "sampled"},
            mean_over=self.mean_over,
        )
