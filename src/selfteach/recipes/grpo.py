"""The baseline with a sparse reward: group-relative policy optimization (GRPO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from selfteach.recipes.kit import *


@settings
class GRPO(Recipe):
    """Reinforce the rollouts that beat their group's mean reward.

    DeepSeekMath (arXiv 2402.03300, sec. 4.1). Advantage A = (r − group mean) / (group std + ε), one per rollout:

        L = mean over rollouts of (1/|y|) Σ_t −min( ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A ) + kl · k3(p, ref)

    with ρ = π / π_sampling of the token, k3 the paper's estimator of KL(p‖ref).
    """

    name = "grpo"
    title = "Group Relative Policy Optimization"
    source = "https://arxiv.org/abs/2402.03300"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ) + β k3(p, ref)"
    presets = {
        "deepseekmath": {},
        "dapo": {"clip_high": 0.28, "kl": 0.0, "mean_over": "tokens"},
        "dr-grpo": {"scale": "none", "kl": 0.0, "mean_over": "constant"},
        "rloo": {"baseline": "others", "scale": "none", "kl": 0.0},
    }

    rollouts: Rollouts = Rollouts(per_prompt=64)
    optimization: Optimization = Optimization(lr=1e-6, prompts=16)
    grpo: GRPOSettings = GRPOSettings()
    kl: NonNegativeFloat = 0.04
    """Coefficient of the KL to the initial policy (0: no reference is scored)."""
    mean_over: Literal["sequences", "tokens", "constant"] = "sequences"
    """Mean of per-rollout token means (paper), mean over all tokens (DAPO), or the sum over rollouts × max_tokens (Dr.
    GRPO: no rollout's length enters)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "grpo compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)} if self.kl else {}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield self.grpo.term("policy", stats, mean_over=self.divisor(stats))
        if self.kl:
            yield Sampled(
                name="kl",
                target=FromRole(REFERENCE),
                function=k3,
                coefficient=self.kl,
                mean_over=self.divisor(stats),
            )

    def divisor(self, stats: Statistics) -> Reduction | float:
        if self.mean_over == "constant":
            return max(1.0, float(stats.rows.sum() * self.rollouts.max_tokens))
        return self.mean_over
