"""Numbers from repetitions: ratios with their spread, and exponents of growth."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with the least and the largest value, and a bootstrap interval (95 %) of the median."""

    median: float
    least: float
    most: float
    low: float
    high: float

    def told(self, form: str = ".2f") -> str:
        """``0.61 (0.58–0.66)``: the median, least and largest; of one value, that alone."""
        if self.least == self.most:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.least:{form}}–{self.most:{form}})"


def spread(values: Sequence[float], draws: int = 2000, seed: int = 0) -> Spread:
    """ValueError where there are none."""
    if not values:
        raise ValueError("no values: nothing was measured")
    generator = random.Random(seed)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return Spread(
        statistics.median(values),
        min(values),
        max(values),
        medians[int(0.025 * (draws - 1))],
        medians[math.ceil(0.975 * (draws - 1))],
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours ÷ theirs, repetition by repetition: the two ran one after the other, so that a slow hour troubles both.
    ValueError where their numbers differ."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class Fit:
    """y = ``scale`` · x^``exponent``, with the exponent's standard error (0 where two points leave none to
    estimate)."""

    exponent: float
    error: float
    scale: float

    def told(self) -> str:
        return f"{self.exponent:.2f} ± {self.error:.2f}"


def exponent(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Least squares on log y against log x. ValueError for fewer than two different x, or values that are not above
    0."""
    if len(set(x)) < 2 or len(x) != len(y):
        raise ValueError(f"an exponent needs two different places at least, got x = {list(x)}")
    if min(*x, *y) <= 0:
        raise ValueError("an exponent needs values above 0")
    slope, intercept, error = line([math.log(v) for v in x], [math.log(v) for v in y])
    return Fit(slope, error, math.exp(intercept))


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(slope, intercept, the slope's standard error) of ordinary least squares."""
    n, x_mean, y_mean = len(x), statistics.fmean(x), statistics.fmean(y)
    square = sum((a - x_mean) ** 2 for a in x)
    slope = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / square
    intercept = y_mean - slope * x_mean
    left = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return slope, intercept, math.sqrt(left / (n - 2) / square) if n > 2 else 0.0
