"""A noisy curve's course: the mean around each of its values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selfteach.report.text import LARGEST_DRAWN

FEWEST = 30
"""Shorter curves are read as they are."""
SHARE, NARROWEST = 20, 5
"""A window spans this share of the curve (1/20), and no fewer values than that."""


def smoothed(points: Sequence[tuple[float, float]], most: int) -> tuple[int, tuple[tuple[float, float], ...]]:
    """(window, points): the mean of the ``window`` values around each point, fewer at the ends; (0, ()) for a curve too
    short to need it.

    Values that cannot be drawn are left out of the means; a window without any other has none (NaN). At most ``most``
    points, evenly chosen, the last among them: no more can be seen of a smooth line.
    """
    count = len(points)
    if count < FEWEST:
        return 0, ()
    half = max(NARROWEST, count // SHARE) // 2
    values = np.array([y for _, y in points], dtype=np.float64)
    values[~(np.abs(values) < LARGEST_DRAWN)] = np.nan
    places = np.unique(np.linspace(0, count - 1, min(count, max(2, most))).round().astype(int)).tolist()
    means = [mean_of_known(values[max(0, i - half) : i + half + 1]) for i in places]
    return 2 * half + 1, tuple((points[i][0], mean) for i, mean in zip(places, means, strict=True))


def mean_of_known(values: NDArray[np.float64]) -> float:
    """The mean of what is no NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
