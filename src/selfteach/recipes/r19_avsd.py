"""Adaptive-view self-distillation (AVSD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from selfteach.recipes.kit import *


@settings
class AVSD(Recipe):
    """Pull the student to what several views of one problem agree on, and as far beyond as the agreement carries.

    "AVSD: Adaptive-View Self-Distillation" (arXiv 2605.20643). The frozen teacher reads M views, q_m. With
    log q_G the mean of the log q_m, q_A the mean of the q_m, Δ_m = log q_m − log p, A_G = log q_G − log p and
    J = max(0, log q_A − log q_G), all at the sampling temperature, the target is

        log q* = log q_G + λ J,   λ = |A_G| / (mean_m |Δ_m| + ε) · |A_G| / (|A_G| + J + ε)

    so that λ J ≤ |A_G|: the residual J never turns the sign of the consensus A_G. The loss reads sampled tokens only:

        L = mean over tokens of −sg[ log q*(y_t) − log p(y_t) ] log p(y_t)

    whose mean over y_t ~ p is, for M = 1, the gradient of KL(p‖q). A rollout that lacks one of the views is left out.
    """

    name = "avsd"
    title = "Adaptive-View Self-Distillation"
    source = "https://arxiv.org/abs/2605.20643"
    formula = "mean_t −sg[ log q_G + λ J − log p ] log p,  J = log q_A − log q_G,  λ = C·R"
    presets = {"math": {}}

    rollouts: Rollouts = Rollouts(temperature=0.7, top_p=0.95, top_k=20, max_tokens=4096)
    optimization: Optimization = Optimization(lr=5e-6, steps=500, max_grad_norm=0.1)
    adapter: Adapter = Adapter(lora_rank=64, lora_alpha=128)
    student_thinking: bool | None = False
    """Thinking flag of the student's chat template: off in the paper."""
    teacher_thinking: bool | None = True
    """Thinking flag of the teachers' chat template: on in the paper."""
    views: tuple[str, ...] = ("solution", "partial", "answer")
    """What the teachers are shown, one each: solution, partial, answer (paper, math), or any private field's name."""
    partial_share: OpenUnit = 0.5
    """Share of the solution's segments in the view partial, rounded up, never all and without the answer."""
    pooling: Literal["gated", "geometric", "arithmetic"] = "gated"
    """The target q*: gated (paper), or with λ = 0 the geometric, with λ = 1 the arithmetic mean (its ablations)."""
    view_top_k: PositiveInt | None = None
    """Compare on the union of each view's k likeliest tokens and the sampled one (released option; none: sampled)."""
    beta: UnitInterval = 0.0
    """With view_top_k: 0 forward KL(q*‖p), 1 reverse KL(p‖q*), between: JSD with m = β q* + (1 − β) p."""
    clip_token: PositiveFloat | None = None
    """With view_top_k: upper bound on each token's divergence, after the sum over candidates (none: unclipped)."""

    def __post_init__(self) -> None:
        require(bool(self.views), "views must name at least one view")
        require(len(set(self.views)) == len(self.views), f"views must name each once, got {self.views}")
        require(STUDENT not in self.views, f"views: no private field may be called {STUDENT!r}")
        require(
            self.view_top_k is not None or (self.beta == 0 and self.clip_token is None),
            "the sampled-token loss has no beta and no clip_token: set --view-top-k",
        )

    def view(self, name: str) -> View:
        if name == "partial":
            return Partial(self.partial_share, rounding="up", template=BEGINNING_ONLY)
        own: Mapping[str, View] = {"solution": Solution(), "answer": Answer()}
        return own.get(name, Field(name))

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {name: Role(Frozen(), self.view(name), self.teacher_thinking) for name in self.views}

    def target(self, renormalize: bool) -> Target:
        if self.pooling == "gated":
            return Consensus(self.views, renormalize=renormalize)
        equal = dict.fromkeys(self.views, 1 / len(self.views))
        return Mixture(equal) if self.pooling == "arithmetic" else GeometricMean(equal, renormalize)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.view_top_k is None:
            yield Sampled(name="distill", target=self.target(False))
            return
        yield CandidateMatch(
            name="distill",
            k=self.view_top_k,
            target=self.target(True),
            divergence=gkd_jsd(self.beta, clip_token=self.clip_token),
        )
