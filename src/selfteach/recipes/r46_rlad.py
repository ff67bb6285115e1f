"""Reinforcement learning whose ratio is anchored at the teacher too (RLAD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import *


@settings
class RLAD(GRPO):
    """GRPO whose importance ratio is taken against a mixture of the sampling policy and an external teacher.

    "Reinforcement-aware Knowledge Distillation" (arXiv 2602.22495), trust-region ratio distillation. With the student
    π, the teacher π_T under the same prompt, and the sampled token y_t,

        r = (π/π_sampling)^α · (π/π_T)^(1−α),        log(π/π_T) held within ± ``log_ratio_clamp``
        L = mean over rollouts of (1/|y|) Σ_t −min( r A, clip(r, 1 − clip_low, 1 + clip_high) A ) + kl · k3(π, ref)

    A = (r − group mean) / (the group's population std + ε). α = 1 is GRPO; the teacher acts through A alone: a token of
    a rollout of advantage 0 is not imitated. The anchor π_sampling^α π_T^(1−α) is not normalized, so that r ≠ 1 even at
    the first update. Where paper text and formula disagree on the two ends of α, this is the formula.
    """

    name = "rlad"
    title = "Reinforcement-aware Knowledge Distillation"
    source = "https://arxiv.org/abs/2602.22495"
    formula = "mean_y (1/|y|) Σ_t −min( r A, clip(r) A ),  r = (π/π_old)^α (π/π_T)^(1−α)"
    presets = {"paper": {}, "grpo": {"alpha": 1.0}}

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-6, prompts=32)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28, scale="population")
    kl: NonNegativeFloat = 0.0
    """Coefficient of the KL to the initial policy (the paper's value is not given; 0: no reference is scored)."""
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer: a folder, a hub id or arena:NAME."""
    alpha: UnitInterval = 0.5
    """α, the sampling policy's share of the anchor (1: GRPO, 0: the teacher alone)."""
    log_ratio_clamp: PositiveFloat | None = 1.0
    """Bound on |log π/π_T| within the ratio, in nats (appendix B; none: unbounded)."""
    clamp_gradient: Literal["stop", "pass"] = "stop"
    """Where the bound acts, the factor π/π_T has no gradient, as torch.clamp leaves it, or keeps it (not stated in the
    paper)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        teacher = Role(External(self.teacher), Plain(), self.student_thinking, signal="sampled")
        return {**super().teachers, **({TEACHER: teacher} if self.alpha < 1 else {})}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        policy, *others = super().terms(stats)
        yield policy if self.alpha == 1 else self.anchored(stats)
        yield from others

    def anchored(self, stats: Statistics) -> Term:
        return OfColumns(
            name="policy",
            function=partial(surrogate, self),
            columns={
                "behavior": stats.behavior_log_prob,
                "teacher": stats.log_prob(TEACHER),
                "advantage": self.advantage(stats),
            },
            mean_over=self.divisor(stats),
            informed_by={TEACHER: "sampled"},
        )


def surrogate(
    recipe: RLAD,
    log_prob: Float[Tensor, "P"],
    behavior: Float[Tensor, "P"],
    teacher: Float[Tensor, "P"],
    advantage: Float[Tensor, "P"],
) -> Float[Tensor, "P"]:
    """[P] −min( r A, clip(r) A ), differentiable in ``log_prob`` (nats)."""
    gap = log_prob - teacher
    if (bound := recipe.log_ratio_clamp) is not None:
        held = gap.clamp(-bound, bound)
        gap = held if recipe.clamp_gradient == "stop" else gap + (held - gap).detach()
    log_ratio = recipe.alpha * (log_prob - behavior) + (1 - recipe.alpha) * gap
    grpo = recipe.grpo
    return clipped_surrogate(
        log_ratio, behavior.new_zeros(behavior.shape), advantage, grpo.clip_low, grpo.clip_high
    )
