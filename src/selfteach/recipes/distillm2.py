"""The baseline with one loss for the teacher's answers and another for the student's (DistiLLM-2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

TINY = 1e-5
"""A teacher that is better by no more than this is not better (released code)."""


@settings
class DistiLLM2(Recipe):
    """Raise what the teacher writes, lower what the student writes: each text has the skewed KL that does so.

    "DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs" (arXiv 2503.07067). Teacher p and student q
    answer the same prompts, y_p and y_q; over the full vocabulary, each the mean over its answers of their token means,

        L = ½ [ (2 − β) KL( p ‖ α p + (1 − α) q ) on y_p  +  β KL( q ‖ (1 − α) p + α q ) on y_q ]

    β rises from 1 to ``beta_end`` over the first half of training. With ``curriculum`` α is each answer's own,
    α = 1 − (1 − ``alpha``) m / g, held within [0.01, ``alpha``]: g is by how much the one who wrote it finds it
    likelier than the other (geometric mean probability of a token), m the mean of g over the batch's answers of its
    kind. An answer on which the two agree more than on average gets a milder mixture.
    """

    name = "distillm2"
    title = "DistiLLM-2"
    source = "https://arxiv.org/abs/2503.07067"
    formula = "½ [ (2−β) KL(p ‖ αp + (1−α)q) on y ~ p  +  β KL(q ‖ (1−α)p + αq) on y ~ q ]"
    presets = {"paper": {}, "released": {"curriculum": False, "beta_end": 1.0}}

    rollouts: Rollouts = Rollouts(max_tokens=512, temperature=0.8, top_p=0.95)
    optimization: Optimization = Optimization(lr=5e-5, prompts=128, steps=800, schedule="cosine")
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    alpha: OpenUnit = 0.1
    """α₀, the largest skew, and that of every answer without ``curriculum`` (paper: 0.1)."""
    lowest_alpha: OpenUnit = 0.01
    """The smallest skew (released code: 0.01)."""
    curriculum: bool = True
    """A skew for each answer (paper), or α₀ for all (released settings)."""
    beta_end: NonNegativeFloat = 1.5
    """What β rises to (1: it stays; released option: 1.5)."""
    loss_temperature: PositiveFloat | None = 1.0
    """Temperature of both softmaxes in the loss (none: that of sampling)."""

    def __post_init__(self) -> None:
        require(self.lowest_alpha <= self.alpha, "lowest_alpha must be at most alpha")
        require(
            self.beta_end <= 2,
            f"beta_end must be at most 2, where the teacher's answers count nothing, got {self.beta_end}",
        )

    @property
    def temperature(self) -> float:
        return self.loss_temperature or self.rollouts.temperature

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        n = self.rollouts.per_prompt
        written = [*tools.sample(prompts, n, role=TEACHER), *tools.sample(prompts, n)]
        return sorted(written, key=lambda one: one.group)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        own = stats.origin(STUDENT)
        skew = self.skew(stats, own) if self.curriculum else self.alpha
        beta = 1 + (self.beta_end - 1) * min(1.0, 2 * stats.step / self.optimization.steps)
        for name, kind, rows, share in (
            ("teacher", SkewForwardKL, ~own, 2 - beta), ("student", SkewReverseKL, own, beta),
        ):  # fmt: skip
            yield Match(
                name=f"distill/{name}",
                target=FromRole(TEACHER),
                divergence=kind(skew) if isinstance(skew, float) else by_row(kind, skew),
                where=rows,
                coefficient=share / 2,
                mean_over="sequences",
            )

    def skew(self, stats: Statistics, own: Bool[Tensor, "N"]) -> Float[Tensor, "N"]:
        """[N] α of each answer."""
        seen, answers = stats.seen(TEACHER), stats.available(TEACHER) & stats.rows
        teacher, student = (
            stats.sequence_mean(stats.log_prob(role), seen).exp() for role in (TEACHER, STUDENT)
        )
        gap = torch.where(own, student - teacher, teacher - student)
        mean = torch.zeros_like(gap)
        for kind in (own, ~own):
            mean[kind] = gap[kind & answers].sum() / (kind & answers).sum().clamp(min=1)
        skew = 1 - (1 - self.alpha) * mean / gap.clamp(min=TINY)
        return skew.clamp(self.lowest_alpha, self.alpha)


def by_row(
    kind: type[SkewForwardKL | SkewReverseKL], alpha: Float[Tensor, "N"]
) -> Callable[[Positions], Divergence]:
    """Positions → the divergence with each row's own skew."""
    return lambda at: kind(at.known(alpha, "alpha").unsqueeze(-1))
