"""Losses of whole strings: any differentiable function of the log-probs of rows, spans, candidates or pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfteach.objective.positions import Positions
from selfteach.objective.terms import OfSampledToken, Term


@dataclass(frozen=True, kw_only=True)
class SequenceTerm(OfSampledToken):
    """F(s): ``function`` of the log-prob sums ``sums`` [U] (nats) of the units, a 0-dim loss; pure.

    ``unit`` [N] or [N, T] long says to which sum a token's log-prob goes (−1: to none). The sums are a statistic
    (``Statistics.unit_sum`` at the same temperature and role), so ∂F/∂s_u is a constant, the slope of every token of
    unit u. The value is exactly F however the batch is split: each selected token adds the same share of it. What
    else F needs (a reference's sums, labels, a running mean) it holds as constants; ``informed_by`` names the roles.

    ``where`` and ``mean_over`` follow from the units; a weight or gate is refused. ValueError naming the term if F or
    a slope is not finite. Without units the loss is 0.
    """

    unit: Int[Tensor, "N"] | Int[Tensor, "N T"]
    sums: Float[Tensor, "U"]
    function: Callable[[Float[Tensor, "U"]], Float[Tensor, ""]]
    tokens: int = 0

    placed: ClassVar[tuple[str, ...]] = ("unit", *OfSampledToken.placed)

    value: Float[Tensor, ""] = field(init=False, repr=False)
    slope: Float[Tensor, "U"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.gate is not None or isinstance(self.weight, Tensor) or self.weight != 1.0:
            raise ValueError(f"term {self.name!r}: weigh the units in the function, not by weight or gate")
        value, slope = self.value_and_slope()
        settled = {"value": value, "slope": slope, "where": self.unit >= 0, "mean_over": "sum"}
        for name, content in settled.items():
            object.__setattr__(self, name, content)

    def value_and_slope(self) -> tuple[Float[Tensor, ""], Float[Tensor, "U"]]:
        """(0-dim F, [U] ∂F/∂s), without gradient."""
        sums = self.sums.detach().clone().requires_grad_()
        if not len(sums):
            return sums.new_zeros(()), sums.detach()
        with torch.enable_grad():
            value = self.function(sums)
            (slope,) = torch.autograd.grad(value, sums)
        if not (value.isfinite() and slope.isfinite().all()):
            raise ValueError(f"term {self.name!r}: of these sums the function or its slope is not finite")
        return value.detach(), slope

    def planned(self, chosen: Bool[Tensor, "N T"]) -> Term:
        return replace(self, tokens=int(chosen.sum()))

    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        slope = self.slope[torch.as_tensor(at.column(self.unit, "unit"))].to(log_prob.dtype)
        share = self.value.to(log_prob.dtype) / self.tokens
        return share + slope * (log_prob - log_prob.detach())
