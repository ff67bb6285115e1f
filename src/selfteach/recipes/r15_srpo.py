"""Card 15: sample-routed policy optimization (SRPO), GRPO for some rollouts and SDPO for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from selfteach.objective.advantage import group_advantage, group_sum, normalized
from selfteach.objective.divergence import gkd_jsd
from selfteach.objective.statistics import Statistics
from selfteach.objective.support import Full, TopK
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, PolicyGradient, Term
from selfteach.recipes.base import Optimization, Recipe, Rollouts, require
from selfteach.recipes.claim import Claim
from selfteach.roles.role import Role
from selfteach.roles.sibling import Reprompt
from selfteach.roles.weights import EMA

TEACHER = "teacher"


@dataclass(frozen=True)
class SRPO(Recipe):
    """Wrong rollouts with a right sibling learn from its reader, token by token; the rest by their group's rewards.

    "Unifying Group-Relative and Self-Distillation Policy Optimization via Sample Routing" (arXiv 2604.02288; card 15).
    With z_i = 1 where rollout i is wrong and another of its group is right, p the student, q its running average that
    reads a right sibling, A_i = (r_i − group mean) / (group std + ε) over the whole group:

        L = ( Σ_{i,t} (1 − z_i) · −min( ρ A_i, clip(ρ) A_i )  +  Σ_{i,t} z_i w_{i,t} min(ρ, 2) JSD(p, sg q) ) / Σ|y|
        w = exp(−β H(q)) / mean of exp(−β H(q)) over the tokens of rollouts with z = 1

    with ρ = p/μ, μ the policy that sampled, H the entropy over the whole vocabulary (nats), JSD on the student's K
    likeliest tokens and one bucket for the rest. One denominator for both sums and no mixing coefficient.
    """

    title = "Sample-Routed Policy Optimization"
    suite = "first"
    source = "arXiv 2604.02288, card 15"
    formula = (
        "( Σ_{z=0} −min(ρ A, clip(ρ) A) + Σ_{z=1} w JSD(p, sg q) ) / Σ|y|,  z = wrong with a right sibling"
    )
    world = "tutor"
    claims = (
        Claim(
            says="Routing beats reinforcement alone: 77.4 against 74.0 after ten hours (Qwen3-8B, five benchmarks)",
            variants={"srpo": "srpo --steps 80", "grpo": "grpo --task tutor --steps 80"},
            higher="srpo",
            lower="grpo",
        ),
        Claim(
            says="and distillation alone, which flattens: 77.4 against 71.1 (the same)",
            variants={
                "srpo": "srpo --steps 80",
                "sdpo": "sdpo --feedback never --alpha 0.5 --lr 3e-4 --prompts 8 --per-prompt 8 --steps 80",
            },
            higher="srpo",
            lower="sdpo",
        ),
    )

    rollouts: Rollouts = field(default_factory=lambda: Rollouts(per_prompt=8, max_tokens=8192))
    optimization: Optimization = field(
        default_factory=lambda: Optimization(lr=5e-6, warmup=10, weight_decay=0.01)
    )
    student_thinking: bool | None = False
    """Thinking flag of both chat templates: off in the paper."""
    beta: float = 1.0
    """β of the token weight exp(−β H(q)), per nat (0: all tokens weigh the same, the paper's ablation)."""
    route: Literal["wrong", "right", "all"] = "wrong"
    """Which rollouts with a right sibling are distilled: the wrong ones (paper), the right ones, or all."""
    update_rate: float = 0.05
    """Share of the new weights in each average of the teacher (as in SDPO, card 28)."""
    alpha: float = 0.5
    """Divergence of the distilled rollouts: 0 forward KL, 1 reverse KL, between JSD with α on the teacher."""
    student_top_k: int | None = 100
    """Compare on the student's k likeliest tokens and one bucket for the rest (none: full vocabulary)."""
    is_clip: float = 2.0
    """Cap on the importance ratio policy/sampler of each distilled token."""
    clip_low: float = 0.2
    """Lower clip of the reinforced tokens' ratio: 1 − clip_low."""
    clip_high: float = 0.28
    """Upper clip of the reinforced tokens' ratio: 1 + clip_high."""
    scale: Literal["std", "none"] = "std"
    """Divide the advantage by the group's deviation (the paper's formula), or not (the baseline it ran)."""
    advantage_eps: float = 1e-4
    """ε beside the group's standard deviation (GRPO's released trainers: 1e-4 or 1e-6)."""

    def __post_init__(self) -> None:
        require(self.rollouts.per_prompt >= 2, "srpo routes by siblings: per_prompt must be at least 2")
        require(self.beta >= 0, f"beta must be 0 or more, got {self.beta}")
        require(0 <= self.update_rate <= 1, f"update_rate must lie in [0, 1], got {self.update_rate}")
        require(0 <= self.alpha <= 1, f"alpha must lie in [0, 1], got {self.alpha}")
        require(self.advantage_eps > 0, f"advantage_eps must be positive, got {self.advantage_eps}")
        require(self.is_clip > 0, f"is_clip must be positive, got {self.is_clip}")
        require(
            0 < self.clip_low < 1 and self.clip_high > 0, "clip_low must lie in (0, 1) and clip_high above 0"
        )

    @classmethod
    def presets(cls) -> Mapping[str, SRPO]:
        paper = cls()
        return {
            "paper": paper,
            "unbiased": replace(paper, scale="none"),
            "uniform": replace(paper, beta=0.0),
            "arena": replace(
                paper,
                student_thinking=None,
                rollouts=Rollouts(per_prompt=8, max_tokens=64),
                update_rate=0.01,
                optimization=Optimization(lr=3e-4, betas=(0.9, 0.95), steps=150, prompts=8),
            ),
        }

    @property
    def teachers(self) -> Mapping[str, Role]:
        weights = EMA(1 - self.update_rate, from_start=True)
        return {TEACHER: Role(weights, Reprompt(feedback="never", readers=self.route), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        distilled = self.distilled(stats)
        yield PolicyGradient(
            name="reinforce",
            advantage=group_advantage(stats.reward, stats.group, self.scale, self.advantage_eps),
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            where=~distilled,
            mean_over=stats.mask,
            temperature=self.temperature,
        )
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.alpha),
            support=Full() if self.student_top_k is None else TopK(self.student_top_k, "student"),
            weight=self.trust(stats, distilled),
            gate=stats.importance(self.is_clip),
            where=distilled,
            mean_over=stats.mask,
            temperature=self.temperature,
        )

    def distilled(self, stats: Statistics) -> Tensor:
        """[N] z: the rollouts of the kind asked for that could be shown another, right one of their group."""
        right = stats.correct.to(stats.dtype)
        others = group_sum(right, stats.group) - right
        kind = {"wrong": ~stats.correct, "right": stats.correct, "all": right >= 0}[self.route]
        return kind & (others > 0.5) & stats.available(TEACHER)

    def trust(self, stats: Statistics, distilled: Tensor) -> Tensor:
        """[N, T] w: small where the teacher is unsure; mean 1 over the distilled tokens, 0 elsewhere."""
        weight = (-self.beta * stats.entropy(TEACHER)).exp()
        return normalized(weight, over=stats.seen(TEACHER) & distilled.unsqueeze(1))
