"""On-policy distillation on the tokens that matter (TIP)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class TIP(Recipe):
    """Distill on a share ρ of each answer's tokens: where the student is undecided, or is wrong and sure of it.

    "TIP: Token Importance in On-Policy Distillation" (arXiv 2604.14084). The student p answers, an external teacher q
    scores. Of every written token, without gradient, its entropy h and divergence δ,

        ĥ = h up to its 98th percentile, δ̂ = KL(p‖q), each moved to [0, 1] over the batch (minimum 0, maximum 1)
        s = 1 − (1 − ĥ)(1 − δ̂)  (soft-or),   ĥ  (entropy),   or KL(q‖p) (1 − ĥ)  (q3: confident and wrong)

    and of each answer the max(1, ⌊ρ |y|⌋) tokens of highest s make the set T:

        L = (1/|T|) Σ_{t ∈ T} KL( p(·|s_t) ‖ q(·|s_t) )           over the full vocabulary
    """

    name = "tip"
    title = "Token Importance in On-Policy Distillation"
    source = "https://arxiv.org/abs/2604.14084"
    formula = "mean_{t ∈ top ρ of 1 − (1 − ĥ)(1 − δ̂)} KL(p ‖ q)"
    presets = {
        "soft-or": {},
        "soft-or-20": {"rho": 0.2},
        "q3": {"score": "q3", "rho": 0.1},
        "entropy": {"score": "entropy", "select": "sample"},
        "opd": {"rho": 1.0},
        "repository": {"schedule": "constant", "weight_decay": 0.1},
    }

    rollouts: Rollouts = Rollouts(max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-6, prompts=256, schedule="cosine")
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    rho: PositiveUnit = 0.5
    """ρ, the share of each answer's tokens that are trained on (1: all, plain distillation)."""
    score: Literal["soft-or", "entropy", "q3"] = "soft-or"
    """What a token is ranked by: entropy or divergence, entropy alone, or divergence without entropy."""
    select: Literal["top", "sample"] = "top"
    """Take the highest scores (paper), or draw without replacement, each token in proportion to its score (with
    "entropy" to the entropy itself: the paper's variant of table 3)."""
    percentile: UnitInterval = 0.98
    """Entropies above this quantile of the batch count as this quantile."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        kept = seen = stats.seen(TEACHER)
        if self.rho < 1:
            kept = stats.row_top(self.ranked(stats, seen), self.rho, seen, least=1)
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=ReverseKL(),
            where=kept,
            mean_over="selected",
        )

    def ranked(self, stats: Statistics, seen: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """[N, T] the score, or, where tokens are drawn, log score + Gumbel noise: its highest are such a draw."""
        if self.select == "top":
            return self.scored(stats, seen)
        score = stats.entropy() if self.score == "entropy" else self.scored(stats, seen)
        return score.log() - (-stats.random("select").clamp(min=1e-12).log()).log()

    def scored(self, stats: Statistics, seen: Bool[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """[N, T] s, in [0, 1] but for "q3" (nats)."""
        entropy = stats.entropy()
        undecided = unit_range(stats, entropy.clamp(max=stats.quantile(entropy, self.percentile, seen)), seen)
        if self.score == "entropy":
            return undecided
        if self.score == "q3":
            return stats.divergence(TEACHER, ForwardKL()).clamp(min=0) * (1 - undecided)
        apart = unit_range(stats, stats.divergence(TEACHER, ReverseKL()), seen)
        return 1 - (1 - undecided) * (1 - apart)


def unit_range(
    stats: Statistics, column: Float[Tensor, "N T"], among: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """[N, T] moved so that its least and its largest entry ``among`` [N, T] are 0 and 1; 0 where all are equal."""
    low, high = (stats.quantile(column, q, among) for q in (0.0, 1.0))
    return torch.where(high > low, (column - low) / (high - low), torch.zeros_like(column))
