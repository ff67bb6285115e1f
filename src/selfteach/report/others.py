"""Samples that are no text: points in the plane as a scatter plot, anything else as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfteach.report.plot import HEIGHT, WIDTH, Placement
from selfteach.report.rows import Row
from selfteach.report.text import as_number, drawable

MOST_SHOWN = 12
MOST_POINTS = 400
"""Of one series; more are thinned evenly."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Other:
    """A sample of another kind than text. ``clouds``: points by name, if it is of kind points."""

    step: float
    phase: str
    kind: str
    key: str
    values: Row
    clouds: Mapping[str, Sequence[Point]]

    @property
    def text(self) -> str:
        try:
            return json.dumps(self.values, indent=1, ensure_ascii=False)
        except RecursionError:
            return "(nested too deeply to be shown; it is in samples.jsonl)"


@dataclass(frozen=True)
class Scatter:
    """A cloud of points, in the coordinates of the drawing."""

    label: str
    color: int
    dots: list[Point]
    left_out: int


def other(row: Row) -> Other:
    values = {k: v for k, v in row.items() if k not in ("step", "phase", "kind", "key")}
    given = values.get("points") if row["kind"] == "points" else None
    clouds = {str(k): cloud(v) for k, v in given.items()} if isinstance(given, Mapping) else {}
    about = {name: str(row.get(name, "")) for name in ("phase", "kind", "key")}
    return Other(step=row["step"], **about, values=values, clouds=clouds)


def cloud(given: object) -> list[Point]:
    """The pairs of drawable numbers in what was written."""
    rows = given if isinstance(given, list) else []
    pairs = [tuple(map(as_number, row)) for row in rows if isinstance(row, list) and len(row) == 2]
    return [(x, y) for x, y in pairs if x is not None and y is not None and drawable(x) and drawable(y)]


def few(others: Sequence[Other]) -> list[Other]:
    """At most ``MOST_SHOWN``, spread evenly over the run, the first and the last among them."""
    if len(others) <= MOST_SHOWN:
        return list(others)
    return [others[round(i * (len(others) - 1) / (MOST_SHOWN - 1))] for i in range(MOST_SHOWN)]


def scatters(one: Other) -> list[Scatter]:
    """The clouds over one pair of axes of equal scale."""
    every = [point for points in one.clouds.values() for point in points] or [(0.0, 0.0)]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*every, strict=True))
    half = max((right - left) / WIDTH, (high - low) / HEIGHT) / 2 or 1.0
    x, y = (left + right) / 2, (low + high) / 2
    place = Placement((x - half * WIDTH, x + half * WIDTH), (y - half * HEIGHT, y + half * HEIGHT))
    drawn = []
    for color, (label, points) in enumerate(one.clouds.items()):
        kept = points[:: math.ceil(len(points) / MOST_POINTS) or 1]
        dots = [(place.x(px), place.y(py)) for px, py in kept]
        drawn.append(Scatter(label, color, dots, len(points) - len(kept)))
    return drawn
