"""Position-weighted on-policy self-distillation (PW-OPSD)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *
from selfteach.recipes.r01_opsd import OPSD


@settings
class PWOPSD(OPSD):
    """OPSD that trusts the teacher more, the later it speaks in a rollout.

    "When Are Teacher Tokens Reliable?" (arXiv 2605.21606). The t-th of a rollout's |y| own tokens has the
    relative position r = (t − ½)/|y| and the weight w(r) = w_min + (1 − w_min) σ((r − τ)/s):

        L = mean over rollouts of (1/|y|) Σ_t w(r_t) Σ_v min( q(v) (log q(v) − log p(v)), clip_entry )

    The divisor is |y|, not Σ w: the weights also make the loss smaller. w_min = 1 is OPSD. The other change against
    OPSD's released code is the mean over rollouts; ``mean_over`` "tokens" takes it back, so that the two can be told
    apart.
    """

    name = "pw-opsd"
    title = "Position-Weighted On-Policy Self-Distillation"
    source = "https://arxiv.org/abs/2605.21606"
    formula = "mean_y (1/|y|) Σ_t w(t/|y|) Σ_v min( q(v) log(q(v)/p(v)), τ )"
    presets = {"moderate": {}, "position-global": {"mean_over": "tokens"}}

    optimization: Optimization = Optimization(lr=5e-6, steps=150, max_grad_norm=0.1)
    w_min: UnitInterval = 0.25
    """Weight of the earliest tokens, which the later ones raise to 1 (paper's Moderate schedule; 1: uniform)."""
    w_middle: UnitInterval = 0.30
    """τ: the relative position at which the weight is half-way (paper: 0.30)."""
    w_width: PositiveFloat = 0.10
    """s: how gradual the rise is, in relative positions (paper: 0.10; towards 0 it is a step)."""

    def position_weight(self, r: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """Relative positions in (0, 1) → weights in (w_min, 1), rising with the position."""
        return self.w_min + (1 - self.w_min) * ((r - self.w_middle) / self.w_width).sigmoid()

    def terms(self, stats: Statistics) -> Iterable[Term]:
        weight = self.position_weight(stats.relative_position)
        for term in super().terms(stats):
            yield replace(term, weight=weight)
