"""On-policy distillation whose signal must rank right answers above wrong ones (Uni-OPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class UniOPD(Recipe):
    """Distill on sampled tokens, and shift the teacher's signal where it prefers wrong answers to right ones.

    "Uni-OPD" (arXiv 2605.03677). The student π answers, a teacher π_T (one for each tag of the data) scores the sampled
    tokens. A_t = log π_T(y_t) − log π_old(y_t) without gradient, G(y) its mean over y's tokens. Of a prompt with
    right and wrong answers, with m = min G(right) − max G(wrong) (or the difference of their means) and
    s = max(0, δ − m), every token of a right answer gets A_t + s/2, of a wrong one A_t − s/2. Then

        L = mean over answers of (1/|y|) Σ_t −min( ρ A_t, clip(ρ) A_t ),       0 where |log π − log π_T| ≥ ``outlier``

    ``balance`` leaves out answers at random, so that of a prompt's right and wrong ones as many are trained on.
    """

    name = "uni-opd"
    title = "Uni-OPD: a dual-perspective recipe for on-policy distillation"
    source = "https://arxiv.org/abs/2605.03677"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ),  A = log π_T/π_old ± max(0, δ − m)/2"
    presets = {"paper": {}, "repository": {"margin_of": "mean"}, "opd": {"shift": "none", "balance": None}}

    rollouts: Rollouts = Rollouts(per_prompt=16, max_tokens=16384)
    optimization: Optimization = Optimization(
        lr=1e-6, prompts=64, warmup=5, betas=(0.9, 0.98), weight_decay=0.1
    )
    student_thinking: bool | None = False
    """Thinking flag of the chat template, of student and teachers alike: off in the paper."""
    teacher: str = "Qwen/Qwen3-30B-A3B-Instruct-2507"
    """Who is distilled: a model (folder, hub id or arena:NAME), or one for each tag: "math=MODEL,code=MODEL"."""
    margin: float = 0.4
    """δ, how far right answers must lie above wrong ones, in nats a token."""
    margin_of: Literal["extremes", "mean"] = "extremes"
    """What lies apart: the worst right and the best wrong answer (paper), or their means (released code)."""
    shift: Literal["both", "correct-up", "incorrect-down", "none"] = "both"
    """Who is moved where the margin is missed: both by half of what is missing, or one side by all of it."""
    balance: PositiveFloat | None = 1.0
    """Right answers of a prompt to each wrong one; the others are left out (none: all are trained on)."""
    clip_low: OpenUnit = 0.2
    """Lower clip of the ratio ρ = π / π_sampling: 1 − clip_low."""
    clip_high: PositiveFloat = 0.28
    """Upper clip of the ratio: 1 + clip_high."""
    outlier: PositiveFloat | None = 10.0
    """Tokens whose log-prob is this far from the teacher's (nats) or farther are left out (none: none is)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "uni-opd compares answers to one prompt: per_prompt must be at least 2",
        )
        routes(self.teacher)

    @property
    def teachers(self) -> Mapping[str, Role]:
        return experts(self.teacher, self.student_thinking, signal="sampled")

    def terms(self, stats: Statistics) -> Iterable[Term]:
        scores, seen = taught(stats, list(self.teachers))
        kept = self.kept(stats, seen.any(dim=1))
        signal = torch.where(seen, scores - stats.old_log_prob(), 0.0)
        shift = self.shifted(stats, stats.sequence_mean(signal, seen), kept)
        # Who is read where says ``where``: no row is seen by every expert.
        yield PolicyGradient(
            name="distill",
            advantage=signal + shift.unsqueeze(1),
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            where=seen & kept.unsqueeze(1),
            mean_over=Divisor("selected", "row"),
            gate=None if self.outlier is None else self.near(scores, self.outlier),
        )

    def near(self, scores: Float[Tensor, "N T"], bound: float) -> At:
        """1 where the student's log-prob is within ``bound`` of the teacher's, else 0."""

        def within(at: Positions) -> Float[Tensor, "P"]:
            own = at.sampled(STUDENT, self.temperature)
            return ((own - at.known(scores, "the teacher's log-prob").to(own.dtype)).abs() < bound).to(
                own.dtype
            )

        return At(within)

    def kept(self, stats: Statistics, scored: Bool[Tensor, "N"]) -> Bool[Tensor, "N"]:
        """[N] bool: which of the ``scored`` [N] answers are trained on: of the more frequent outcome a random part, if
        there are both."""
        among = stats.rows & scored
        if self.balance is None:
            return among
        ones, lot = (
            torch.ones_like(stats.reward),
            stats.random("balance")[:, :1].sum(dim=1).to(stats.reward.dtype),
        )
        sides = (stats.correct & among, ~stats.correct & among)
        right, wrong = (stats.group_sum(ones, side) for side in sides)
        # Floors lose an answer to the last bit of a product such as 0.1 · 10 otherwise.
        most = ((self.balance * wrong + 1e-9).floor(), (right / self.balance + 1e-9).floor())
        kept = torch.zeros_like(among)
        for side, allowed in zip(sides, most, strict=True):
            rank = group_rank(lot, stats.group, side)
            kept |= side & ((rank < allowed.clamp(min=1)) | (right == 0) | (wrong == 0))
        return kept

    def shifted(
        self, stats: Statistics, mean: Float[Tensor, "N"], kept: Bool[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """[N] what is added to every token of an answer; 0 in groups without right or without wrong answers."""
        right, wrong = stats.correct & kept, ~stats.correct & kept
        if self.margin_of == "mean":
            gap = stats.group_mean(mean, right) - stats.group_mean(mean, wrong)
        else:
            gap = -group_max(-mean, stats.group, right) - group_max(mean, stats.group, wrong)
        missing = torch.where(gap.isnan(), 0.0, (self.margin - gap).clamp(min=0))
        share = 0.5 if self.shift == "both" else 1.0
        up, down = self.shift in ("both", "correct-up"), self.shift in ("both", "incorrect-down")
        raised = torch.where(right, share * missing, 0.0) if up else torch.zeros_like(missing)
        return raised - torch.where(wrong, share * missing, 0.0) if down else raised
