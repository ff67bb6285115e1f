"""Card 22: contrastive evidence policy optimization (CEPO), and RLSD, its ancestor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from selfteach.control.schedule import HoldThenDecay
from selfteach.objective.advantage import group_advantage
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import PolicyGradient, Term
from selfteach.recipes.base import Adapter, Optimization, Recipe, Rollouts, require
from selfteach.recipes.claim import Claim
from selfteach.roles.attempt import Evidence
from selfteach.roles.role import Role
from selfteach.roles.weights import Frozen, Live

RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class CEPO(Recipe):
    """GRPO whose advantage falls on the tokens that the right answer speaks for and a wrong one against.

    "RLVR Self-Distillation using Contrastive Evidence Policy Optimization" (arXiv 2605.19436; card 22). Two teachers,
    the student's own weights, score the sampled tokens behind a spliced-in answer: P⁺ behind the right one, P⁻ behind
    the one that the group's worst wrong rollout gave. With A_i the group advantage and Δ_t = log P⁺(y_t) − log P⁻(y_t):

        A_t = A_i · [ (1 − λ) + λ clip( exp(sign(A_i) Δ_t), 1 − ε, 1 + ε ) ],   L = mean_t −min( ρ A_t, clip(ρ) A_t )

    λ falls linearly from ``mix`` to 0 over ``mix_steps`` steps; then no teacher is asked and the loss is GRPO's. The
    sign of A never flips, and the answer reaches the gradient through constants only. RLSD puts the student's own
    log-prob in place of log P⁻.
    """

    title = "Contrastive Evidence Policy Optimization"
    suite = "first"
    source = "arXiv 2605.19436, card 22"
    formula = (
        "mean_t −min(ρ A_t, clip(ρ) A_t),  A_t = A [(1 − λ) + λ clip(exp(sign(A) (log P⁺ − log P⁻)), 1 ± ε)]"
    )
    world = "tutor"
    claims = (
        Claim(
            says="Evidence helps GRPO: 43.4 against 41.2 (Qwen3-VL-2B, average of five benchmarks)",
            variants={"cepo": "cepo --steps 80", "grpo": "cepo --mix 0 --steps 80"},
            higher="cepo",
            lower="grpo",
        ),
        Claim(
            says="and the contrast with a wrong answer helps RLSD: 43.4 against 40.1 (the same)",
            variants={"cepo": "cepo --steps 80", "rlsd": "cepo --contrast student --steps 80"},
            higher="cepo",
            lower="rlsd",
        ),
    )

    rollouts: Rollouts = field(default_factory=lambda: Rollouts(per_prompt=8, max_tokens=2048))
    optimization: Optimization = field(
        default_factory=lambda: Optimization(lr=5e-6, steps=50, schedule="cosine", warmup=5)
    )
    adapter: Adapter = field(default_factory=lambda: Adapter(lora_rank=16, lora_alpha=32))
    contrast: Literal["wrong-answer", "student"] = "wrong-answer"
    """What the right answer's scores are held against: that of a wrong answer (CEPO), or of none (RLSD)."""
    weights: Literal["live", "frozen"] = "live"
    """Whose weights read the answers: the student's (paper) or the initial policy's (released option)."""
    mix: float = 0.5
    """λ at the first step: the share of the advantage that the evidence reweights."""
    mix_steps: int | None = 25
    """Steps over which λ falls to 0 (none: it stays)."""
    clip_weight: float = 0.5
    """ε: a token's weight stays within 1 ± ε (README: 0.5; released script: 0.2)."""
    clip_low: float = 0.2
    """Lower clip of the ratio: 1 − clip_low."""
    clip_high: float = 0.28
    """Upper clip of the ratio: 1 + clip_high."""
    scale: Literal["std", "none"] = "std"
    """Divide the advantage by the group's standard deviation, or not."""
    advantage_eps: float = 1e-4
    """ε beside the group's standard deviation (GRPO's released trainers: 1e-4 or 1e-6)."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of the rollouts' token means."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "cepo compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(self.advantage_eps > 0, f"advantage_eps must be positive, got {self.advantage_eps}")
        require(0 <= self.mix <= 1, f"mix must lie in [0, 1], got {self.mix}")
        require(self.mix_steps is None or self.mix_steps >= 1, "mix_steps must be at least 1, or none")
        require(
            0 <= self.clip_weight <= 1,
            f"clip_weight must lie in [0, 1], got {self.clip_weight}: beyond 1 a weight could be negative",
        )
        require(
            0 < self.clip_low < 1 and self.clip_high > 0, "clip_low must lie in (0, 1) and clip_high above 0"
        )

    @classmethod
    def presets(cls) -> Mapping[str, CEPO]:
        paper = cls()
        return {
            "paper": paper,
            "released-script": replace(paper, clip_weight=0.2),
            "released-defaults": replace(paper, mix=1.0, mix_steps=100, clip_weight=0.2),
            "rlsd": replace(
                paper,
                contrast="student",
                clip_weight=0.2,
                optimization=replace(paper.optimization, lr=1e-6),
            ),
            "arena": replace(
                paper,
                mix_steps=75,
                rollouts=Rollouts(per_prompt=8, max_tokens=64),
                optimization=Optimization(lr=2e-4, betas=(0.9, 0.95), steps=150, prompts=8),
                adapter=Adapter(),
            ),
        }

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
        advantage = group_advantage(stats.reward, stats.group, self.scale, self.advantage_eps)
        if self.active(stats.step):
            advantage = self.reweighted(advantage, stats)
        yield PolicyGradient(
            name="policy",
            advantage=advantage,
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            mean_over=self.mean_over,
            temperature=self.temperature,
        )

    def reweighted(self, advantage: Tensor, stats: Statistics) -> Tensor:
        """[N] A → [N, T] A_t; rows in which a teacher saw nothing keep theirs."""
        against = stats.log_prob(WRONG) if self.contrast == "wrong-answer" else stats.behavior_log_prob
        seen = torch.stack([stats.seen(name) for name in self.teachers]).all(dim=0)
        evidence = torch.where(seen, stats.log_prob(RIGHT) - against, 0.0)
        weight = (advantage.sign().unsqueeze(1) * evidence).exp()
        clipped = weight.clamp(1 - self.clip_weight, 1 + self.clip_weight)
        strength = self.strength(stats.step)
        return advantage.unsqueeze(1) * ((1 - strength) + strength * clipped)
