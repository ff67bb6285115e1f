"""How far several contexts of one teacher agree on a token, as weights (UniSD)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.objective.statistics import Statistics

Spread = Literal["variance", "range"]


def agreement(
    stats: Statistics,
    likely: Float[Tensor, "K N T"],
    known: Bool[Tensor, "N T"],
    *,
    by: Literal["token", "sequence"] = "token",
    gamma: float = 1.0,
    spread: Spread = "variance",
) -> Float[Tensor, "N T"]:
    """[N, T] weights in (0, 1] from K contexts' log-probs (nats), 1 where they agree or not all are ``known``.

    "token": 1 / (1 + γ min(δ_t / q, 10)), at least 0.01, δ_t the contexts' sample variance and q its 95 % quantile over
    the batch. "sequence": exp(−γ δ), at least 1e-6, δ the population variance of the contexts' means over the rollout.
    ``spread`` "range": largest − smallest in the variance's place.
    """
    known = known & stats.mask
    clean = torch.where(known, likely, 0.0)
    if by == "sequence":
        mean = torch.stack([stats.sequence_mean(one, known) for one in clean])
        weight = (-gamma * _apart(mean, spread, 0)).exp().clamp(min=1e-6).unsqueeze(1)
    else:
        apart = _apart(clean, spread, 1)
        usual = stats.quantile(apart, 0.95, known).clamp(min=torch.finfo(apart.dtype).tiny)
        weight = (1 / (1 + gamma * (apart / usual).clamp(max=10))).clamp(min=0.01)
    return torch.where(known, weight, 1.0)


def _apart(values: Float[Tensor, "K *N"], spread: Spread, correction: int) -> Float[Tensor, "*N"]:
    if spread == "range":
        return values.amax(dim=0) - values.amin(dim=0)
    return values.var(dim=0, correction=correction)
