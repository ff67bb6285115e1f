"""GRPO and a teacher whose word counts less at turns where the student has drifted away from it (SOD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import *

EPSILON = 1e-6


@settings
class SOD(GRPO):
    """Distill at every turn of an episode, a turn counting less the farther the student has drifted from the teacher.

    "SOD: Step-wise On-policy Distillation for Small Language Model Agents" (arXiv 2605.07725). The teacher π_T scores
    the student's own tokens behind the same context. Turn k of an episode has the gap d_k = mean over its tokens of
    |log π_old − log π_T|, and the weight w_k = min(Π_{u<k} (d_u + ε)/(d_{u+1} + ε), 1 + δ). The product telescopes to
    (d_1 + ε)/(d_k + ε), ε = 1e-6, and that is computed. With GRPO's advantage A of the whole episode, over all tokens
    of the batch (``form`` "advantage", the released code),

        L = mean_t −min( ρ Ã_t, clip(ρ) Ã_t ),    Ã_t = A + c w_k (log π_T(y_t) − log π_old(y_t))    (no gradient)

    or (``form`` "loss", the paper) GRPO's loss with A alone and beside it c mean_t w_k (log π − log π_T), whose
    gradient is taken as a policy gradient's. Both gradients are equal at ρ = 1. What an environment says has no weight.
    """

    name = "sod"
    title = "Step-wise On-policy Distillation"
    source = "https://arxiv.org/abs/2605.07725"
    formula = "mean_t −min( ρ Ã, clip(ρ) Ã ),  Ã = A + c min((d_1+ε)/(d_k+ε), 1+δ) log π_T/π_old"
    presets = {
        "code": {},
        "paper": {"form": "loss"},
        "opd": {"step_weight": "uniform"},
        "opd-alone": {"step_weight": "uniform", "reward_weight": 0.0},
    }

    rollouts: Rollouts = Rollouts(per_prompt=16, max_tokens=2048, max_turns=16)
    optimization: Optimization = Optimization(lr=1e-6, prompts=64, steps=120)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28)
    kl: NonNegativeFloat = 0.0
    """Coefficient of the KL to the initial policy (0, as in the paper: no reference is scored)."""
    mean_over: Literal["sequences", "tokens", "constant"] = "tokens"
    """Mean over all tokens (paper), of per-rollout token means, or the sum over rollouts × max_tokens."""
    teacher: str = "Qwen/Qwen3-4B"
    """The larger model of the same tokenizer (paper: one that was reinforced on the same data): a folder, a hub id or
    arena:NAME."""
    form: Literal["advantage", "loss"] = "advantage"
    """The teacher's part within the clipped advantage (released code), or as a loss beside it (paper's text)."""
    opd_weight: NonNegativeFloat = 1.0
    """c, weight of the teacher's part (0: GRPO, no teacher is scored)."""
    reward_weight: NonNegativeFloat = 1.0
    """Weight of the reward's advantage (0: distillation alone)."""
    step_weight: Literal["gap", "uniform"] = "gap"
    """A turn counts by its gap to the teacher, or all turns count alike (the paper's baseline OPD)."""
    max_weight: PositiveFloat | None = 1.2
    """1 + δ: no turn counts more than this (released script: δ = 0.2; none: no cap, an ablation that loses)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        teacher = Role(External(self.teacher), Plain(), self.student_thinking, signal="sampled")
        return {**super().teachers, **({TEACHER: teacher} if self.opd_weight else {})}

    def advantage(self, stats: Statistics) -> Float[Tensor, "N"]:
        """[N] the reward's part alone."""
        return self.reward_weight * super().advantage(stats)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        policy, *others = super().terms(stats)
        yield from others
        if not self.opd_weight:
            yield policy
            return
        weight = self.weights(stats)
        informed: Mapping[str, Signal] = {TEACHER: "sampled"}
        if self.form == "loss":
            yield policy
            yield Sampled(
                name="distill",
                target=FromRole(TEACHER),
                weight=weight,
                coefficient=self.opd_weight,
                mean_over=self.divisor(stats),
                informed_by=informed,
            )
            return
        gap = torch.where(stats.seen(TEACHER), stats.log_prob(TEACHER) - stats.old_log_prob(), 0.0)
        advantage = self.advantage(stats).unsqueeze(1) + self.opd_weight * weight * gap
        yield replace(policy, advantage=advantage, informed_by=informed)  # type: ignore[call-arg]

    def weights(self, stats: Statistics) -> Float[Tensor, "N T"]:
        """[N, T] w_k of each token's turn; 0 where the policy wrote nothing or the teacher sees nothing."""
        seen = stats.seen(TEACHER)
        if self.step_weight == "uniform":
            return seen.to(stats.dtype)
        gap = stats.turn_mean((stats.old_log_prob() - stats.log_prob(TEACHER)).abs())
        # The first turn may be a row of its own, where the template does not render earlier turns as they were written.
        first = stats.first_of_trajectory(gap, seen).unsqueeze(1)
        ratio = (first + EPSILON) / (gap + EPSILON)
        weight = ratio if self.max_weight is None else ratio.clamp(max=self.max_weight)
        weight = torch.where(seen, weight, 0.0)
        stats.report("steps/weight", weight[seen].mean() if seen.any() else torch.nan)
        return weight
