"""Signal-calibrated on-policy distillation with two weighted paths (SCOPE)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

Favor = Literal["high-perplexity", "low-perplexity", "uniform"]
SIGN: Mapping[Favor, float] = {"high-perplexity": -1.0, "low-perplexity": 1.0, "uniform": 0.0}
"""What multiplies a rollout's mean log-prob in the softmax: perplexity is exp of minus that mean."""


@settings
class SCOPE(Recipe):
    """Wrong rollouts learn from the teacher, right ones from themselves, each path weighted by a perplexity.

    SCOPE (arXiv 2604.10688). Of a prompt's rollouts C are right and W wrong; PPL(y) = exp(−mean_t log π(y_t)):

        w_i = softmax over C of −mean_t log π(y_t) / τ           unlikely to the student: the edge of its skill
        w_j = softmax over W of +mean_t log π_T(y_t) / τ         likely to the teacher: it knows its way from there
        L = mean over prompts of [ Σ_{i∈C} w_i Σ_t −log π(y_t)
                                 + Σ_{j∈W} w_j Σ_t ρ_t (sg log π(y_t) − log π_T(y_t)) ]

    with ρ_t = π/π_old, π_old the policy that wrote the tokens. The weights carry no gradient. The teacher is another
    model under the student's own prompt. Log-probs in nats, at the sampling temperature.
    """

    name = "scope"
    title = "Signal-Calibrated On-Policy Distillation Enhancement with Dual-Path Adaptive Weighting"
    source = "https://arxiv.org/abs/2604.10688"
    formula = "Σ_right w Σ_t −log π + Σ_wrong w Σ_t ρ (log π − log π_T)"
    presets = {
        "paper": {},
        "released": {"mean_over": "tokens", "clip": 0.2, "student_weight": "low-perplexity"},
        "released-defaults": {
            "mean_over": "tokens",
            "clip": 0.2,
            "student_weight": "low-perplexity",
            "teacher_weight": "high-perplexity",
        },
    }

    rollouts: Rollouts = Rollouts(per_prompt=8, temperature=0.6, max_tokens=12288)
    optimization: Optimization = Optimization(lr=5e-5, steps=100, prompts=256)
    teacher: str = "Skywork/Skywork-OR1-7B"
    """The model that scores wrong rollouts: a folder, a hub id or arena:NAME."""
    student_weight: Favor = "high-perplexity"
    """Which right rollouts count more: those unlikely to the student (paper) or the likely ones (released scripts);
    uniform: all alike."""
    teacher_weight: Favor = "low-perplexity"
    """Which wrong rollouts count more: those likely to the teacher (paper) or the unlikely ones; uniform: all alike."""
    right_above: float = 0.0
    """A rollout is right if its reward exceeds this (released code: 0)."""
    weight_temperature: PositiveFloat = 1.0
    """τ of both softmaxes: large is uniform."""
    mean_over: Literal["prompts", "tokens"] = "prompts"
    """Paper: weights sum to 1 in a prompt and path, token sums, mean over prompts. Released code ("tokens"): weights
    average 1, divided by all tokens (wrong path) and by the right rollouts' tokens (right path)."""
    estimator: Literal["sampled", "full"] = "sampled"
    """Estimate the wrong path's gradient from the sampled token (paper), or take it over the whole vocabulary (not in
    the paper: Σ_t KL(π‖π_T), the same expectation at ρ = 1 without its noise, for small batches)."""
    clip: PositiveUnit | None = None
    """Clip ρ to 1 ± clip as in PPO (released code: 0.2; none: the paper's plain ratio)."""

    def __post_init__(self) -> None:
        require(bool(self.teacher), "teacher is empty: name a model")
        require(
            self.estimator == "sampled" or self.clip is None,
            "clip is for the sampled token's ratio: estimator full needs clip none",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        student, teacher = stats.log_prob(), stats.log_prob(TEACHER)
        # A rollout without a token of its own has no perplexity, and would take weight from those that have one.
        some, right = stats.mask.any(dim=1), stats.reward > self.right_above
        # Nor has one of which the teacher saw no token; of one that it saw in part, the tokens seen are the mean's.
        seen = stats.seen(TEACHER)
        right, wrong = right & some, ~right & seen.any(dim=1)
        yield NegativeLogLikelihood(
            name="imitate",
            weight=self.weights(stats.sequence_mean(student), self.student_weight, stats, right),
            where=right,
            mean_over="sum" if self.mean_over == "prompts" else "selected",
            temperature=self.temperature,
        )
        weight = self.weights(stats.sequence_mean(teacher, seen), self.teacher_weight, stats, wrong)
        mean_over: Reduction = "sum" if self.mean_over == "prompts" else "tokens"
        if self.estimator == "full":
            yield Match(
                name="distill",
                target=FromRole(TEACHER),
                divergence=ReverseKL(),
                weight=weight,
                where=wrong,
                mean_over=mean_over,
            )
            return
        yield PolicyGradient(
            name="distill",
            advantage=teacher - student,
            behavior=stats.behavior_log_prob,
            clip=(1.0, math.inf) if self.clip is None else (self.clip, self.clip),
            weight=weight,
            where=wrong,
            mean_over=mean_over,
            informed_by={TEACHER: "sampled"},
        )

    def weights(
        self, likelihood: Float[Tensor, "N"], favor: Favor, stats: Statistics, path: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """[N] weight of each rollout on ``path`` [N] from its mean log-prob [N] (nats a token)."""
        share = group_softmax(SIGN[favor] * likelihood / self.weight_temperature, stats.group, path)
        if self.mean_over == "prompts":
            return share / max(1, len(stats.group[stats.rows].unique()))
        return share * group_sum(path.to(share.dtype), stats.group)
