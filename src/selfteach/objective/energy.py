"""How far two samples are apart, whatever the distributions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """2 E|X − Y| − E|X − X′| − E|Y − Y′| (Székely and Rizzo 2013), 0 if and only if the distributions are equal.

    Estimated without bias, X and X′ being different rows, so that it may fall below 0 where the samples are alike. In
    units of x; scipy's ``energy_distance`` is the root of the biased estimate. n, m ≥ 2.
    """
    return 2 * torch.cdist(x, y, compute_mode=EXACT).mean() - spread(x) - spread(y)


def spread(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """E|X − X′| over different rows."""
    n = len(x)
    return torch.cdist(x, x, compute_mode=EXACT).sum() / (n * (n - 1))


EXACT = "donot_use_mm_for_euclid_dist"
"""Differences before squares: through products of matrices near points lose all digits."""
