"""Contrastive evidence policy optimization (CEPO), and RLSD, its ancestor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

RIGHT, WRONG = "right", "wrong"


@settings
class CEPO(Recipe):
    """GRPO whose advantage falls on the tokens that the right answer speaks for and a wrong one against.

    "RLVR Self-Distillation using Contrastive Evidence Policy Optimization" (arXiv 2605.19436). Two teachers,
    the student's own weights, score the sampled tokens behind a spliced-in answer: P⁺ behind the right one, P⁻ behind
    the one that the group's worst wrong rollout gave. With A_i the group advantage and Δ_t = log P⁺(y_t) − log P⁻(y_t):

        A_t = A_i · [ (1 − λ) + λ clip( exp(sign(A_i) Δ_t), 1 − ε, 1 + ε ) ],   L = mean_t −min( ρ A_t, clip(ρ) A_t )

    λ falls linearly from ``mix`` to 0 over ``mix_steps`` steps; then no teacher is asked and the loss is GRPO's. The
    sign of A never flips, and the answer reaches the gradient through constants only. RLSD puts the student's own
    log-prob in place of log P⁻.
    """

    name = "cepo"
    title = "Contrastive Evidence Policy Optimization"
    source = "https://arxiv.org/abs/2605.19436"
    formula = (
        "mean_t −min(ρ A_t, clip(ρ) A_t),  A_t = A [(1 − λ) + λ clip(exp(sign(A) (log P⁺ − log P⁻)), 1 ± ε)]"
    )
    sizes = {**Recipe.sizes, "mix_steps": "schedule"}
    presets = {
        "paper": {},
        "released-script": {"clip_weight": 0.2},
        "released-defaults": {"mix": 1.0, "mix_steps": 100, "clip_weight": 0.2},
        "rlsd": {"contrast": "student", "clip_weight": 0.2, "lr": 1e-6},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=2048)
    optimization: Optimization = Optimization(lr=5e-6, steps=50, schedule="cosine", warmup=5)
    adapter: Adapter = Adapter(lora_rank=16, lora_alpha=32)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28)
    contrast: Literal["wrong-answer", "student"] = "wrong-answer"
    """What the right answer's scores are held against: that of a wrong answer (CEPO), or of none (RLSD)."""
    weights: Literal["live", "frozen"] = "live"
    """Whose weights read the answers: the student's (paper) or the initial policy's (released option)."""
    mix: UnitInterval = 0.5
    """λ at the first step: the share of the advantage that the evidence reweights."""
    mix_steps: PositiveInt | None = 25
    """Steps over which λ falls to 0 (none: it stays)."""
    clip_weight: UnitInterval = 0.5
    """ε: a token's weight stays within 1 ± ε (README: 0.5; released script: 0.2; beyond 1 it could be negative)."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of the rollouts' token means."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "cepo compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        shown = {RIGHT: Evidence()} | (
            {WRONG: Evidence(wrong=True)} if self.contrast == "wrong-answer" else {}
        )
        whose = Live() if self.weights == "live" else Frozen()
        return {
            name: Role(whose, view, self.student_thinking, signal="sampled") for name, view in shown.items()
        }

    def active(self, step: int) -> tuple[str, ...]:
        return tuple(self.teachers) if self.strength(step) > 0 else ()

    def strength(self, step: int) -> float:
        """λ at ``step`` = 0, 1, 2 …"""
        return self.mix if self.mix_steps is None else HoldThenDecay(self.mix, 0, self.mix_steps).at(step)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        advantage = self.grpo.advantage(stats)
        if self.active(stats.step):
            advantage = self.reweighted(advantage, stats)
        yield self.grpo.term("policy", stats, advantage, mean_over=self.mean_over)

    def reweighted(self, advantage: Float[Tensor, "N"], stats: Statistics) -> Float[Tensor, "N T"]:
        """[N] A → [N, T] A_t; rows in which a teacher saw nothing keep theirs."""
        against = stats.log_prob(WRONG) if self.contrast == "wrong-answer" else stats.behavior_log_prob
        seen = torch.stack([stats.seen(name) for name in self.teachers]).all(dim=0)
        evidence = torch.where(seen, stats.log_prob(RIGHT) - against, 0.0)
        weight = (advantage.sign().unsqueeze(1) * evidence).exp()
        clipped = weight.clamp(1 - self.clip_weight, 1 + self.clip_weight)
        strength = self.strength(stats.step)
        return advantage.unsqueeze(1) * ((1 - strength) + strength * clipped)
