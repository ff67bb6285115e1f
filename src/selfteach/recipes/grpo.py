"""The baseline with a sparse reward: group-relative policy optimization (GRPO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from selfteach.objective.advantage import group_advantage
from selfteach.objective.sampled import k3
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import PolicyGradient, Sampled, Term
from selfteach.recipes.base import Optimization, Recipe, Rollouts, require
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import Frozen

REFERENCE = "reference"


@dataclass(frozen=True)
class GRPO(Recipe):
    """Reinforce the rollouts that beat their group's mean reward.

    DeepSeekMath (arXiv 2402.03300, sec. 4.1). Advantage A = (r − group mean) / (group std + ε), one per rollout:

        L = mean over rollouts of (1/|y|) Σ_t −min( ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A ) + kl · k3(p, ref)

    with ρ = π / π_sampling of the token, k3 the paper's estimator of KL(p‖ref).
    """

    title = "Group Relative Policy Optimization"
    source = "arXiv 2402.03300"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ) + β k3(p, ref)"

    rollouts: Rollouts = field(default_factory=lambda: Rollouts(per_prompt=64))
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=1e-6, prompts=16))
    clip_low: float = 0.2
    """Lower clip of the ratio: 1 − clip_low."""
    clip_high: float = 0.2
    """Upper clip of the ratio: 1 + clip_high (DAPO: 0.28)."""
    scale: Literal["std", "none"] = "std"
    """Divide the advantage by the group's standard deviation (paper), or not (Dr. GRPO)."""
    advantage_eps: float = 1e-4
    """ε beside the group's standard deviation (GRPO's released trainers: 1e-4 or 1e-6)."""
    kl: float = 0.04
    """Coefficient of the KL to the initial policy (0: no reference is scored)."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-rollout token means (paper), or mean over all tokens (DAPO)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "grpo compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(self.advantage_eps > 0, f"advantage_eps must be positive, got {self.advantage_eps}")
        require(self.kl >= 0, f"kl must be 0 or more, got {self.kl}")
        require(
            0 < self.clip_low < 1 and self.clip_high > 0, "clip_low must lie in (0, 1) and clip_high above 0"
        )

    @classmethod
    def presets(cls) -> Mapping[str, GRPO]:
        paper = cls()
        return {
            "deepseekmath": paper,
            "dapo": replace(paper, clip_high=0.28, kl=0.0, mean_over="tokens"),
            "dr-grpo": replace(paper, scale="none", kl=0.0, mean_over="tokens"),
            "arena": replace(
                paper,
                kl=0.0,
                rollouts=Rollouts(per_prompt=8, max_tokens=64),
                optimization=Optimization(lr=3e-4, steps=300, prompts=8),
            ),
        }

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)} if self.kl else {}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield PolicyGradient(
            name="policy",
            advantage=group_advantage(stats.reward, stats.group, self.scale, self.advantage_eps),
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            mean_over=self.mean_over,
            temperature=self.temperature,
        )
        if self.kl:
            yield Sampled(
                name="kl",
                target=FromRole(REFERENCE),
                function=k3,
                coefficient=self.kl,
                mean_over=self.mean_over,
                temperature=self.temperature,
            )
