"""What noise costs: Rényi differential privacy of the Gaussian mechanism on Poisson samples, and (ε, δ) of it (DP-OPD).

Two data sets are neighbors if one has a record more. A step draws each record with chance q, adds up vectors of norm
at most C and adds noise of deviation σC. With μ0 = N(0, σ²) and μ = (1 − q) μ0 + q N(1, σ²) its Rényi divergence of
order α is at most log A / (α − 1), A = E_{z ~ μ0}[ (μ/μ0)^α ] (Mironov, Talwar and Zhang, arXiv 1908.10530); those of
several steps add up. From them follows ε at a given δ by arXiv 2004.00010, proposition 12, the least over orders.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

ORDERS: tuple[float, ...] = (*(1 + i / 10 for i in range(1, 100)), *range(12, 64), 80, 128, 256, 512)
"""α. The bound holds at each; more of them only make it tighter."""
LEAST = 0.2
"""Below this σ the bound of a step on all records is taken, α / (2σ²): there is next to no privacy either way."""
TAILS, FINENESS = 12, 16
"""The integral's grid: deviations beyond the bulk, and points in the width of what varies fastest."""


@lru_cache(maxsize=256)
def renyi(rate: float, noise: float) -> tuple[float, ...]:
    """Rényi divergence (nats) of one step at each of ``ORDERS``. ``rate``: q in (0, 1]; ``noise``: σ > 0.

    ValueError outside of these ranges.
    """
    if not (0 < rate <= 1 and 0 < noise < math.inf):
        raise ValueError(f"rate must lie in (0, 1] and noise be above 0, got {rate} and {noise}")
    if rate == 1 or noise < LEAST:
        return tuple(order / (2 * noise**2) for order in ORDERS)
    return tuple(max(0.0, log_moment(rate, noise, order)) / (order - 1) for order in ORDERS)


def log_moment(rate: float, noise: float, order: float) -> float:
    """log A by the trapezoid rule, which for what is smooth and dies off is exact to rounding."""
    variance = noise**2
    step = min(noise, variance) / FINENESS
    low, high = -TAILS * noise, order + TAILS * noise
    z = low + step * torch.arange(math.ceil((high - low) / step) + 1, dtype=torch.float64)
    ratio = torch.logaddexp(
        torch.full_like(z, math.log1p(-rate)), math.log(rate) + (2 * z - 1) / (2 * variance)
    )
    density = -z.square() / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
    return float((density + order * ratio).logsumexp(0)) + math.log(step)


def epsilon(rate: float, noise: float, steps: int, delta: float) -> float:
    """ε at ``delta`` after so many steps."""
    found = (
        steps * one + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        for order, one in zip(ORDERS, renyi(rate, noise), strict=True)
    )
    return max(0.0, min(found))


@lru_cache(maxsize=64)
def noise_for(target: float, rate: float, steps: int, delta: float) -> float:
    """The least σ (to 0.1 %, from above, and ``LEAST`` at least) of which ``epsilon`` is at most ``target``; infinite
    where no noise is enough: the orders are finite, so that an ε near 0 is out of reach."""
    high = 1.0
    while epsilon(rate, high, steps, delta) > target:
        high *= 2
        if high > 2**20:
            return math.inf
    low = high / 2
    while low > LEAST and epsilon(rate, low, steps, delta) <= target:
        low, high = low / 2, low
    low = max(low, LEAST)
    if epsilon(rate, low, steps, delta) <= target:
        return low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        if epsilon(rate, middle, steps, delta) <= target:
            high = middle
        else:
            low = middle
    return high
