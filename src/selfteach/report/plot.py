"""From a chart to the coordinates of its drawing, in units of the SVG's view box."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfteach.report.curves import Chart, Point, Series
from selfteach.report.text import drawable, number, short

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 42
"""Room for labels of 17 units, which are 12 px where a chart is as narrow as on a phone (style.css)."""


@dataclass(frozen=True)
class Line:
    """One series, drawn; ``dots`` only where points are few; ``smooth``: the path over it, where there is one.

    ``value`` is its last, with its error and, if other series go on after it, its x.
    """

    label: str
    color: int
    faint: bool
    path: str
    band: str
    dots: list[Point]
    value: str
    smooth: str = ""
    last: Point | None = None


@dataclass(frozen=True)
class Drawing:
    """All a template needs to draw a chart. ``hover``: JSON of positions, x values and each line's values there;
    ``said``: the chart in words; ``ends``: labels (x, y, text, color) at the lines' ends."""

    chart: Chart
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    hover: str
    last_x: str
    not_finite: int
    said: str
    ends: Sequence[tuple[float, float, str, int]] = ()


def draw(chart: Chart) -> Drawing:
    """Lay a chart out; y always includes 0, so that a small change looks small."""
    finite = [p for s in chart.series for p in s.points if all(map(drawable, p))]
    xs = [x for x, _ in finite] + list(chart.x_range)
    x_range = (min(xs, default=0.0), max(xs, default=1.0))
    x_ticks = ticks(x_range, whole=True)
    y_ticks = ticks([0.0, *chart.y_range, *(edge for s in chart.series for edge in edges(s))])
    place = Placement(x_range, (y_ticks[0], y_ticks[-1]))
    hidden = sum(len(s.points) for s in chart.series) - len(finite)
    last = max((x for s in chart.series if not s.faint for x, _ in s.points), default=math.nan)
    return Drawing(
        chart,
        [line(s, place, last) for s in chart.series],
        [(place.x(x), short(x)) for x in x_ticks if x_range[0] <= x <= x_range[1]],
        [(place.y(y), short(y)) for y in y_ticks],
        hover(chart.series, place),
        number(last),
        hidden if chart.not_finite is None else chart.not_finite,
        said(chart),
    )


def said(chart: Chart) -> str:
    """What a reader who does not see the chart is told: of each line its ends and its extremes."""
    return " ".join(course(one) for one in chart.series if not one.faint)


def course(series: Series) -> str:
    known = [y for x, y in series.points if drawable(x) and drawable(y)]
    if not known:
        return f"{series.label}: no value."
    ends = f"{number(known[0])} at first, {number(known[-1])} at last"
    return f"{series.label}: {ends}, between {number(min(known))} and {number(max(known))}."


@dataclass(frozen=True)
class Placement:
    """Data to view box; a range of one value sits in the middle."""

    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        return round(LEFT + share(value, self.xs) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - share(value, self.ys) * (HEIGHT - TOP - BOTTOM), 1)


def share(value: float, between: tuple[float, float]) -> float:
    low, high = between
    return 0.5 if high == low else (value - low) / (high - low)


def edges(series: Series) -> Iterable[float]:
    """Every finite height a series reaches, its error band included."""
    errors = series.errors or (0.0,) * len(series.points)
    for (_, y), error in zip(series.points, errors, strict=True):
        reach = error if drawable(error) else 0.0
        yield from (edge for edge in (y - reach, y + reach) if drawable(edge))


def ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    """Round numbers from below the least to above the greatest value, in about five steps."""
    low, high = min(values), max(values)
    if high == low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    step = max(1.0, math.ceil(step)) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def line(series: Series, place: Placement, last: float) -> Line:
    finite = [p for p in series.points if all(map(drawable, p))]
    few = len(finite) <= 30 and not series.faint and not series.smooth
    return Line(
        series.label,
        series.color,
        series.faint,
        path(series.points, place),
        band(series, place),
        [(place.x(x), place.y(y)) for x, y in finite] if few else [],
        values_along(series, [last])[0],
        path(series.smooth, place),
        (place.x(finite[-1][0]), place.y(finite[-1][1])) if finite else None,
    )


def path(points: Sequence[Point], place: Placement) -> str:
    """SVG path data; the line breaks where a value is not finite."""
    commands, pen = [], "M"
    for x, y in points:
        if drawable(x) and drawable(y):
            commands.append(f"{pen}{place.x(x):g} {place.y(y):g}")
            pen = "L"
        else:
            pen = "M"
    return "".join(commands)


def band(series: Series, place: Placement) -> str:
    """SVG path data of the region within one standard error, where there is one."""
    known = [
        (x, y, error)
        for (x, y), error in zip(series.points, series.errors, strict=False)
        if all(map(drawable, (x, y, error)))
    ]
    if not known:
        return ""
    upper = [f"{place.x(x):g} {place.y(y + error):g}" for x, y, error in known]
    lower = [f"{place.x(x):g} {place.y(y - error):g}" for x, y, error in reversed(known)]
    return f"M{'L'.join(upper + lower)}Z"


def value_at(series: Series, i: int) -> str:
    text = number(series.points[i][1])
    known = i < len(series.errors) and math.isfinite(series.errors[i])
    if not known:
        return text
    decimals = len(text.partition(".")[2]) if "e" not in text else 0
    return f"{text} ± {f'{series.errors[i]:.{decimals}f}' if decimals else number(series.errors[i])}"


def values_along(series: Series, xs: Sequence[float]) -> list[str]:
    """The line's value at each of the ascending ``xs``, or the one before it."""
    order = sorted(range(len(series.points)), key=lambda i: series.points[i][0])
    starts = [series.points[i][0] for i in order]
    shown = []
    for x in xs:
        place = bisect_right(starts, x) - 1
        own = value_at(series, order[place]) if place >= 0 else "–"
        shown.append(own if place < 0 or starts[place] == x else f"{own} (at {number(starts[place])})")
    return shown


def hover(every: Sequence[Series], place: Placement) -> str:
    """What a pointer or the arrow keys show: for each x the values there of all lines but the faint ones.

    A line without a point there shows its last one before, and where that was.
    """
    shown = [series for series in every if not series.faint]
    xs = sorted({x for series in shown for x, _ in series.points if drawable(x)})
    values = [values_along(series, xs) for series in shown]
    return json.dumps({"at": [place.x(x) for x in xs], "x": [number(x) for x in xs], "values": values})
