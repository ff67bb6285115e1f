"""The baseline that covers a teacher where it is unsure (EOPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class EOPD(Recipe):
    """Imitate what a teacher is sure of, and cover what it is not: a forward KL beside the reverse one.

    "Entropy-Aware On-Policy Distillation of Language Models" (arXiv 2603.07079). On the student's tokens y_t, with the
    teacher q, the student p, its ratio ρ = p/p_sampling and A_t = log q(y_t) − log p_sampling(y_t), constant:

        L = mean over tokens of −min( ρ A, clip(ρ, 1 ± clip) A ) + 1[ H(q) > threshold ] KL( q̂ ‖ p )

    q̂ is q on its ``teacher_top_k`` likeliest tokens, rescaled; p stays over the whole vocabulary. The smooth form over
    the vocabulary is the divergence ``EntropyAware``. The loss is that of an implementation beside PW-OPSD's.
    """

    name = "eopd"
    title = "Entropy-Aware On-Policy Distillation"
    source = "https://arxiv.org/abs/2603.07079"
    formula = "mean_t −min( ρ A, clip(ρ) A ) + 1[H(q) > 0.8] KL(q̂₁₆ ‖ p),  A = log q/p"
    presets = {"paper": {}, "self": {"teacher": ITSELF}}

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization(lr=5e-6)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME; or "self", the
    initial policy that reads the reference solution (as in PW-OPSD's comparison)."""
    threshold: NonNegativeFloat = 0.8
    """Entropy of the teacher (nats) above which the forward KL is added (0.8)."""
    teacher_top_k: PositiveInt = 16
    """How many of the teacher's likeliest tokens the forward KL is to (16)."""
    forward_weight: NonNegativeFloat = 1.0
    """Coefficient of the forward KL (1; 0: plain sampled distillation)."""
    clip: OpenUnit = 0.2
    """Clip of the ratio p/p_sampling: 1 ± clip."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: itself_or(self.teacher, self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        behavior = stats.behavior_log_prob
        yield PolicyGradient(
            name="reverse",
            advantage=stats.log_prob(TEACHER) - behavior,
            behavior=behavior,
            clip=(self.clip, self.clip),
            informed_by={TEACHER: "sampled"},
            mean_over="tokens",
        )
        if self.forward_weight:
            yield Match(
                name="forward",
                target=Likeliest(TEACHER, self.teacher_top_k),
                divergence=ForwardKL(),
                gate=At(self.unsure, (TEACHER,)),
                coefficient=self.forward_weight,
                mean_over="tokens",
            )

    def unsure(self, at: Positions) -> Float[Tensor, "P"]:
        """[P] 1 where the teacher's entropy is above the threshold, else 0."""
        log_probs: Tensor = at.log_probs(TEACHER, self.temperature)
        return (entropy(log_probs) > self.threshold).to(torch.float32)
