"""GRPO with a teacher in the reference's place (dGRPO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import *


@settings
class DGRPO(GRPO):
    """Reinforce what is right, and stay near a stronger teacher: GRPO's KL to the reference is a KL to the teacher.

    "Combining On-Policy Optimization and Distillation for Long-Context Reasoning" (arXiv 2605.12227). With the student
    p and an external teacher q under the same prompt:

        L = mean over rollouts of (1/|y|) Σ_t [ −min( ρ A, clip(ρ) A ) + kl · KL(p ‖ q) ]

    The KL is estimated at the sampled token (k3), or taken over the vocabulary. kl = 0 is GRPO; equal rewards leave
    on-policy distillation; the optimum of E[r] − kl · KL(p ‖ q) is ∝ q exp(r / kl). The paper's value of kl, lengths
    and estimator could not be read: defaults are GRPO's.
    """

    name = "dgrpo"
    title = "GRPO with a distillation term"
    source = "https://arxiv.org/abs/2605.12227"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ) + β KL(p ‖ teacher)"
    presets = {"paper": {}, "full": {"estimator": "full"}}

    rollouts: Rollouts = Rollouts(per_prompt=8)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer: a folder, a hub id or arena:NAME."""
    kl: NonNegativeFloat = 0.04
    """Coefficient of the KL to the teacher (0: GRPO, no teacher is scored)."""
    estimator: Literal["k3", "full"] = "k3"
    """Estimate the KL at the sampled token, q/p − 1 − log(q/p) (whose gradient is the forward KL's), or take the whole
    reverse KL."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        signal: Literal["full", "sampled"] = "full" if self.estimator == "full" else "sampled"
        teacher = Role(External(self.teacher), Plain(), self.student_thinking, signal=signal)
        return {TEACHER: teacher} if self.kl else {}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield self.grpo.term("policy", stats, self.advantage(stats), mean_over=self.divisor(stats))
        if not self.kl:
            return
        target = FromRole(TEACHER)
        shared: dict[str, Any] = {"name": "distill", "coefficient": self.kl, "mean_over": self.divisor(stats)}
        if self.estimator == "full":
            yield Match(target=target, divergence=ReverseKL(), **shared)
        else:
            yield Sampled(target=target, function=k3, **shared)
