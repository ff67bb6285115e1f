"""Estimates with cluster-bootstrap intervals: rollouts of one prompt are not independent, so prompts are resampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Statistic = Callable[[Array], float]
"""Row weights [n] (how often each row was drawn) → the quantity; NaN where it is undefined."""

DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """``estimate``, 95 % interval [``low``, ``high``], from ``n`` rows of ``clusters`` prompts.

    NaN: undefined. Ends that are NaN beside an estimate that is none: all prompts agreed, which bounds nothing here.
    """

    estimate: float
    low: float
    high: float
    n: int
    clusters: int


def bootstrap(
    statistic: Statistic,
    clusters: ArrayLike,
    *,
    bounds: tuple[float, float] | None = None,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile interval of ``statistic`` over rows whose ``clusters`` [n] are drawn whole, with replacement.

    Draws in which the quantity is undefined (an AUROC without a failure) are left out. Where no draw differs, drawing
    again says nothing of what was not seen: the interval is ``without_spread``. ``bounds``: the least and the greatest
    that the quantity can be.
    """
    names, own = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(own):
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    values = np.array([statistic(drawn[own].astype(np.float64)) for drawn in times])
    known = values[~np.isnan(values)]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
    estimate = float(statistic(np.ones(len(own))))
    if np.isclose(low, high, rtol=1e-9, atol=1e-12):
        low, high = without_spread(estimate, len(names), bounds, level)
    return Interval(estimate, float(low), float(high), len(own), len(names))


def without_spread(
    estimate: float, clusters: int, bounds: tuple[float, float] | None, level: float = LEVEL
) -> tuple[float, float]:
    """The interval where all prompts agree: as far towards each bound as the mean would be if a share of prompts lay
    there that so many prompts would all have missed with probability 1 − ``level``. NaN without bounds."""
    if bounds is None:
        return np.nan, np.nan
    unseen = 1 - (1 - level) ** (1 / clusters)
    least, most = min(bounds[0], estimate), max(bounds[1], estimate)
    return estimate - unseen * (estimate - least), estimate + unseen * (most - estimate)


def mean_interval(
    values: ArrayLike, clusters: ArrayLike, *, bounds: tuple[float, float] | None = None, seed: int = 0
) -> Interval:
    """The mean of ``values`` [n] (each within ``bounds``); NaN values are left out."""
    numbers, own = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    known = ~np.isnan(numbers)
    numbers = numbers[known]

    def statistic(weight: Array) -> float:
        return ratio(np.vdot(weight, numbers), weight.sum())

    return bootstrap(statistic, own[known], bounds=bounds, seed=seed)


def share_interval(outcomes: ArrayLike, clusters: ArrayLike, *, seed: int = 0) -> Interval:
    """A mean of ``outcomes`` [n] in [0, 1]. Where all are 0 (or all 1) the far end is the share at which so many
    prompts would all agree with probability 5 %."""
    return mean_interval(outcomes, clusters, bounds=(0.0, 1.0), seed=seed)


def difference_interval(
    values: ArrayLike,
    of: ArrayLike,
    clusters: ArrayLike,
    *,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` [n] where ``of`` [n] is True minus their mean where it is False; NaN values are left out.
    ``bounds``: of the difference."""
    numbers, chosen = np.asarray(values, dtype=np.float64), np.asarray(of, dtype=bool)
    known = ~np.isnan(numbers)
    numbers, chosen = numbers[known], chosen[known]

    def statistic(weight: Array) -> float:
        inside, outside = weight * chosen, weight * ~chosen
        return ratio(np.vdot(inside, numbers), inside.sum()) - ratio(np.vdot(outside, numbers), outside.sum())

    return bootstrap(statistic, np.asarray(clusters)[known], bounds=bounds, seed=seed)


def auroc(score: ArrayLike, label: ArrayLike) -> Statistic:
    """P(score of a positive row > score of a negative one) + ½ P(equal), as a statistic of row weights."""
    _, place = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    positive = np.asarray(label, dtype=bool)
    size = int(place.max(initial=-1)) + 1

    def statistic(weight: Array) -> float:
        ups = np.bincount(place, weight * positive, size)
        downs = np.bincount(place, weight * ~positive, size)
        below = np.cumsum(downs) - downs
        return ratio(np.vdot(ups, below + downs / 2), ups.sum() * downs.sum())

    return statistic


def ratio(top: np.floating | float, bottom: np.floating | float) -> float:
    """top / bottom, NaN for nothing over nothing."""
    return float(top / bottom) if bottom else np.nan
