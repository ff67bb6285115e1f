"""Token-routed self on-policy alignment (TRACE)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class TRACE(Recipe):
    """GRPO everywhere, and for the first steps a KL to a hinted teacher on the few tokens that an annotator marked.

    TRACE (arXiv 2605.10194). An annotator marks key spans K of right rollouts and error spans E of wrong
    ones; the teacher q, a copy of the student p every ``sync_every`` steps, reads the type of what was marked, neither
    place nor text. With λ the schedule's value at this step (of ``kl_start`` = λ_0, held, then linearly to 0):

        L = GRPO with token weight 1 − λ/λ_0 on K ∪ E, and 1 elsewhere
          + λ · mean over rollouts of (1/|y|) [ key_weight   · Σ_{t∈K} Σ_v min( q (log q − log p), clip_entry )
                                              + error_weight · Σ_{t∈E} Σ_v min( p (log p − log q), clip_entry ) ]

    K ∪ E covers at most ``coverage`` of a rollout: its first marked tokens. GRPO is that of DeepSeekMath with DAPO's
    wider upper clip. Once λ is 0 the loss is GRPO's and the teacher is not asked. Divergences in nats, at the sampling
    temperature, over the whole vocabulary.
    """

    name = "trace"
    title = "Token-Routed Self On-Policy Alignment"
    source = "https://arxiv.org/abs/2605.10194"
    formula = "GRPO off the spans + λ(step) mean_y (1/|y|) [ Σ_key KL(q‖p) + Σ_error KL(p‖q) ]"
    sizes = {**Recipe.sizes, "kl_hold": "schedule", "kl_decay": "schedule", "sync_every": "schedule"}
    presets = {"trace-fkl": {}, "trace-rkl": {"key_weight": 0.0, "error_weight": 1.0}}
    annotated = True

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-6, prompts=128)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28)
    student_thinking: bool | None = True
    """Thinking flag of the chat template, of student and teacher alike: on in the paper."""
    key_weight: NonNegativeFloat = 1.0
    """Weight of the forward KL on key spans of right rollouts (TRACE-FKL, for a strong base model: 1)."""
    error_weight: NonNegativeFloat = 0.0
    """Weight of the reverse KL on error spans of wrong rollouts (TRACE-RKL, for a weak base model: 1)."""
    kl_start: PositiveFloat = 0.5
    """λ_0, the coefficient of the KL at first (without a KL it is recipe grpo with --clip-high 0.28)."""
    kl_hold: NonNegativeInt = 10
    """Steps that it is held."""
    kl_decay: PositiveInt = 30
    """Steps in which it then falls to 0, linearly."""
    clip_entry: PositiveFloat | None = 0.05
    """Upper bound on each vocabulary entry's summand of either KL (none: unclipped)."""
    coverage: PositiveUnit = 0.25
    """Largest share of a rollout's tokens in spans."""
    spans: Literal["marked", "random", "all"] = "marked"
    """What is routed to the KL: the annotator's spans (paper), as many random tokens as the coverage allows, or all
    tokens (the paper's ablations)."""
    sync_every: PositiveInt = 10
    """Steps between copies of the student to the teacher."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "trace compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(self.key_weight + self.error_weight > 0, "key_weight or error_weight must be above 0")

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
        yield self.grpo.term(
            "policy", stats, weight=1 - live * (key | error).to(stats.dtype), mean_over="sequences"
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
                )

    def routes(self, stats: Statistics) -> tuple[Bool[Tensor, "N T"], Bool[Tensor, "N T"]]:
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
