"""Student's t: how much of it lies beyond a value, and the value that a share of it lies beyond."""

from __future__ import annotations

import math
from functools import lru_cache

from selfteach.checks import require


def tail(t: float, freedom: int) -> float:
    """P(T > t) at ``freedom`` degrees of freedom, to an absolute error of about 1e-15; ``t`` may be infinite."""
    if freedom < 1 or math.isnan(t):
        raise ValueError(f"no tail of t = {t} at {freedom} degrees of freedom")
    return min(1.0, max(0.0, (1 - _within(t, freedom)) / 2))


def _within(t: float, freedom: int) -> float:
    """P(|T| < |t|), with the sign of ``t``: a finite sum in the angle whose tangent is t / √freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term, total = 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        first = 2 * k + 2 if freedom % 2 else 2 * k + 1
        term *= square * first / (first + 1)
    if freedom % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + sine * math.cos(angle) * total)


@lru_cache(maxsize=1024)
def quantile(beyond: float, freedom: int) -> float:
    """The t ≥ 0 with P(T > t) = ``beyond``, which lies in (0, 0.5]."""
    require(0 < beyond <= 0.5, f"a share beyond must lie in (0, 0.5], got {beyond}")
    low, high = 0.0, 1.0
    while tail(high, freedom) > beyond:
        low, high = high, 2 * high
        if high > 1e12:
            return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > beyond else (low, middle)
    return high
