"""Card 04: token-routed self on-policy alignment (TRACE)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from selfteach.control.schedule import HoldThenDecay
from selfteach.objective.advantage import group_advantage
from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.spans import capped, scattered
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, PolicyGradient, Term
from selfteach.recipes.base import Optimization, Recipe, Rollouts
from selfteach.recipes.checks import require
from selfteach.recipes.claim import Claim
from selfteach.roles.diagnosis import Diagnosis
from selfteach.roles.role import Role
from selfteach.roles.weights import Lagged

TEACHER = "teacher"
ARENA = "trace --steps 80"


@dataclass(frozen=True)
class TRACE(Recipe):
    """GRPO everywhere, and for the first steps a KL to a hinted teacher on the few tokens that an annotator marked.

    TRACE (arXiv 2605.10194; card 04). An annotator marks key spans K of right rollouts and error spans E of wrong
    ones; the teacher q, a copy of the student p every ``sync_every`` steps, reads the type of what was marked, neither
    place nor text. With λ the schedule's value at this step (of ``kl_start`` = λ_0, held, then linearly to 0):

        L = GRPO with token weight 1 − λ/λ_0 on K ∪ E, and 1 elsewhere
          + λ · mean over rollouts of (1/|y|) [ key_weight   · Σ_{t∈K} Σ_v min( q (log q − log p), clip_entry )
                                              + error_weight · Σ_{t∈E} Σ_v min( p (log p − log q), clip_entry ) ]

    K ∪ E covers at most ``coverage`` of a rollout: its first marked tokens. GRPO is that of DeepSeekMath with DAPO's
    wider upper clip. Once λ is 0 the loss is GRPO's and the teacher is not asked. Divergences in nats, at the sampling
    temperature, over the whole vocabulary.
    """

    title = "Token-Routed Self On-Policy Alignment"
    suite = "first"
    source = "arXiv 2605.10194, card 04"
    formula = "GRPO off the spans + λ(step) mean_y (1/|y|) [ Σ_key KL(q‖p) + Σ_error KL(p‖q) ]"
    world = "tutor"
    annotated = True
    claims = (
        Claim(
            says="A KL on the marked spans, soon faded out, beats GRPO alone: 81.5 against 78.8 (Qwen3-8B)",
            variants={
                "trace": ARENA,
                "grpo": "grpo --task tutor --steps 80 --per-prompt 4 --prompts 32 --lr 1e-3 --betas 0.9 0.95 "
                "--clip-high 0.28",
            },
            higher="trace",
            lower="grpo",
        ),
        Claim(
            says="The annotator's spans do better than as many random tokens",
            variants={"marked": ARENA, "random": f"{ARENA} --spans random"},
            higher="marked",
            lower="random",
        ),
    )

    rollouts: Rollouts = field(default_factory=lambda: Rollouts(per_prompt=8, max_tokens=8192))
    optimization: Optimization = field(default_factory=lambda: Optimization(lr=1e-6, prompts=128))
    student_thinking: bool | None = True
    """Thinking flag of the chat template, of student and teacher alike: on in the paper."""
    key_weight: float = 1.0
    """Weight of the forward KL on key spans of right rollouts (TRACE-FKL, for a strong base model: 1)."""
    error_weight: float = 0.0
    """Weight of the reverse KL on error spans of wrong rollouts (TRACE-RKL, for a weak base model: 1)."""
    kl_start: float = 0.5
    """λ_0, the coefficient of the KL at first."""
    kl_hold: int = 10
    """Steps that it is held."""
    kl_decay: int = 30
    """Steps in which it then falls to 0, linearly."""
    clip_entry: float | None = 0.05
    """Upper bound on each vocabulary entry's summand of either KL (none: unclipped)."""
    coverage: float = 0.25
    """Largest share of a rollout's tokens in spans."""
    spans: Literal["marked", "random", "all"] = "marked"
    """What is routed to the KL: the annotator's spans (paper), as many random tokens as the coverage allows, or all
    tokens (the paper's ablations)."""
    sync_every: int = 10
    """Steps between copies of the student to the teacher."""
    advantage_eps: float = 1e-4
    """ε beside the group's standard deviation (GRPO's released trainers: 1e-4 or 1e-6)."""
    clip_low: float = 0.2
    """GRPO's lower clip of the ratio: 1 − clip_low."""
    clip_high: float = 0.28
    """GRPO's upper clip of the ratio: 1 + clip_high (DAPO's clip-higher)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "trace compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(
            self.kl_start > 0,
            "kl_start must be above 0: without a KL it is recipe grpo with --clip-high 0.28",
        )
        require(
            self.kl_hold >= 0 and self.kl_decay >= 1,
            "kl_hold must be 0 or more steps and kl_decay at least 1",
        )
        require(
            min(self.key_weight, self.error_weight) >= 0 and self.key_weight + self.error_weight > 0,
            "key_weight and error_weight must be 0 or more, and one of them above 0",
        )
        require(0 < self.coverage <= 1, f"coverage must lie in (0, 1], got {self.coverage}")
        require(self.advantage_eps > 0, f"advantage_eps must be positive, got {self.advantage_eps}")
        require(self.sync_every >= 1, "sync_every must be at least 1 step")
        require(
            0 < self.clip_low < 1 and self.clip_high > 0, "clip_low must lie in (0, 1) and clip_high above 0"
        )

    @classmethod
    def presets(cls) -> Mapping[str, TRACE]:
        paper = cls()
        return {
            "trace-fkl": paper,
            "trace-rkl": replace(paper, key_weight=0.0, error_weight=1.0),
            "arena": replace(
                paper,
                key_weight=0.0,
                error_weight=1.0,
                clip_entry=None,
                kl_start=1.0,
                kl_hold=20,
                sync_every=50,
                student_thinking=None,
                rollouts=Rollouts(per_prompt=4, max_tokens=64),
                optimization=Optimization(lr=1e-3, betas=(0.9, 0.95), steps=150, prompts=32),
            ),
        }

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(Lagged(self.sync_every), Diagnosis(), self.student_thinking)}

    @property
    def fading(self) -> HoldThenDecay:
        """λ/λ_0 by step."""
        return HoldThenDecay(1.0, self.kl_hold, self.kl_decay)

    def active(self, step: int) -> Collection[str]:
        return () if self.fading.over(step) else (TEACHER,)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        live = self.fading.at(stats.step)
        key, error = self.routes(stats)
        yield PolicyGradient(
            name="policy",
            advantage=group_advantage(stats.reward, stats.group, epsilon=self.advantage_eps),
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            weight=1 - live * (key | error).to(stats.dtype),
            mean_over="sequences",
            temperature=self.temperature,
        )
        if self.fading.over(stats.step):
            return
        for name, span, divergence, share in (
            ("key", key, ForwardKL(clip_entry=self.clip_entry), self.key_weight),
            ("error", error, ReverseKL(clip_entry=self.clip_entry), self.error_weight),
        ):
            if share:
                yield Match(
                    name=name,
                    target=FromRole(TEACHER),
                    divergence=divergence,
                    where=span,
                    weight=1 / stats.length.clamp(min=1).to(stats.dtype),
                    coefficient=self.kl_start * live * share / max(1, int(stats.rows.sum())),
                    mean_over="sum",
                    temperature=self.temperature,
                )

    def routes(self, stats: Statistics) -> tuple[Tensor, Tensor]:
        """([N, T] key tokens, [N, T] error tokens) of the rollouts whose teacher is asked; never both."""
        right = stats.correct.unsqueeze(1)
        seen = stats.seen(TEACHER)
        if self.spans == "marked":
            marked = torch.where(right, stats.mark("key"), stats.mark("error"))
            span = capped(marked, stats.mask, self.coverage) & seen
        elif self.spans == "random":
            span = scattered(stats.mask, self.coverage, stats.step) & seen
        else:
            span = stats.mask & seen
        return span & right, span & ~right
