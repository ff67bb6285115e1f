"""Sample-routed policy optimization (SRPO), GRPO for some rollouts and SDPO for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class SRPO(Recipe):
    """Wrong rollouts with a right sibling learn from its reader, token by token; the rest by their group's rewards.

    "Unifying Group-Relative and Self-Distillation Policy Optimization via Sample Routing" (arXiv 2604.02288).
    With z_i = 1 where rollout i is wrong and another of its group is right, p the student, q its running average that
    reads a right sibling, A_i = (r_i − group mean) / (group std + ε) over the whole group:

        L = ( Σ_{i,t} (1 − z_i) · −min( ρ A_i, clip(ρ) A_i )  +  Σ_{i,t} z_i w_{i,t} min(ρ, 2) JSD(p, sg q) ) / Σ|y|
        w = exp(−β H(q)) / mean of exp(−β H(q)) over the tokens of rollouts with z = 1

    with ρ = p/μ, μ the policy that sampled, H the entropy over the whole vocabulary (nats), JSD on the student's K
    likeliest tokens and one bucket for the rest. One denominator for both sums and no mixing coefficient.
    """

    name = "srpo"
    title = "Sample-Routed Policy Optimization"
    source = "https://arxiv.org/abs/2604.02288"
    formula = (
        "( Σ_{z=0} −min(ρ A, clip(ρ) A) + Σ_{z=1} w JSD(p, sg q) ) / Σ|y|,  z = wrong with a right sibling"
    )
    presets = {"paper": {}, "unbiased": {"scale": "none"}, "uniform": {"beta": 0.0}}

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8192)
    optimization: Optimization = Optimization(lr=5e-6, warmup=10, weight_decay=0.01)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28)
    student_thinking: bool | None = False
    """Thinking flag of both chat templates: off in the paper."""
    beta: NonNegativeFloat = 1.0
    """β of the token weight exp(−β H(q)), per nat (0: all tokens weigh the same, the paper's ablation)."""
    route: Literal["wrong", "right", "all"] = "wrong"
    """Which rollouts with a right sibling are distilled: the wrong ones (paper), the right ones, or all."""
    update_rate: UnitInterval = 0.05
    """Share of the new weights in each average of the teacher (as in SDPO)."""
    alpha: UnitInterval = 0.5
    """Divergence of the distilled rollouts: 0 forward KL, 1 reverse KL, between JSD with α on the teacher."""
    student_top_k: PositiveInt | None = 100
    """Compare on the student's k likeliest tokens and one bucket for the rest (none: full vocabulary)."""
    is_clip: PositiveFloat = 2.0
    """Cap on the importance ratio policy/sampler of each distilled token."""

    def __post_init__(self) -> None:
        require(self.rollouts.per_prompt >= 2, "srpo routes by siblings: per_prompt must be at least 2")

    @property
    def teachers(self) -> Mapping[str, Role]:
        weights = EMA(1 - self.update_rate, from_start=True)
        return {TEACHER: Role(weights, Reprompt(feedback="never", readers=self.route), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        distilled = self.distilled(stats)
        yield self.grpo.term("reinforce", stats, where=~distilled, mean_over=stats.mask)
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.alpha),
            support=likeliest(self.student_top_k, of="student"),
            weight=self.trust(stats, distilled),
            gate=stats.importance(self.is_clip),
            where=distilled,
            mean_over=stats.mask,
        )

    def distilled(self, stats: Statistics) -> Bool[Tensor, "N"]:
        """[N] z: the rollouts of the kind asked for that could be shown another, right one of their group."""
        right = stats.correct.to(stats.dtype)
        others = group_sum(right, stats.group) - right
        kind = {"wrong": ~stats.correct, "right": stats.correct, "all": right >= 0}[self.route]
        return kind & (others > 0.5) & stats.available(TEACHER)

    def trust(self, stats: Statistics, distilled: Bool[Tensor, "N"]) -> Float[Tensor, "N T"]:
        """[N, T] w: small where the teacher is unsure; mean 1 over the distilled tokens, 0 elsewhere."""
        weight = (-self.beta * stats.entropy(TEACHER)).exp()
        return normalized(weight, over=stats.seen(TEACHER) & distilled.unsqueeze(1))
