"""A comparison's page: every recipe's seeds on one scale, what claims came to, each recipe's curve, who is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfteach.recipes import RECIPES
from selfteach.report import several_runs
from selfteach.report.curves import MOST_LABEL, Chart
from selfteach.report.page import render, written
from selfteach.report.plot import Drawing, draw
from selfteach.report.text import as_number, cut, drawable, measured, number

WIDTH, EDGE = 240, 8
"""Of a strip, in pixels; its margin."""
APART = 14.0
"""Labels at lines' ends, in units of the drawing."""
MOST_TOGETHER = 6
"""Recipes whose lines can be told apart in one plot; more have a plot each."""
# fmt: off
TWO_SIDED_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
"""Student's t at 1, 2, … 30 degrees of freedom; beyond these the last one, which is a little too wide."""
MOOD = {"reproduced": "good", "refuted": "bad"}
ORDER = ("reproduced", "refuted", "equal", "undecided", "no verdict", "withdrawn")


@dataclass(frozen=True)
class Strip:
    """One recipe on the common scale, in pixels: its seeds, their mean, a 95 % interval (None: there is none) and where
    it began. ``row`` holds the recipe's numbers."""

    name: str
    row: Mapping[str, Any]
    seeds: list[float]
    mean: float | None
    interval: tuple[float, float] | None
    start: float | None
    said: str


@dataclass(frozen=True)
class ClaimRow:
    """A paper's claim and what was measured, in words."""

    method: str
    says: str
    metric: str
    asked: str
    difference: str
    verdict: str
    mood: str
    caveat: str


def comparison_page(results: Mapping[str, Any], out: Path) -> Path:
    """Write a comparison's results (as in ``results.json`` or ``methods.json``) as one HTML page; returns its path."""
    recipes, headline, unit = results["recipes"], results["headline"], results["unit"]
    together = len(recipes) <= MOST_TOGETHER
    charts = (
        several_runs.comparison_charts(recipes, headline, unit) if together else panels(recipes, headline)
    )
    claims = sorted(map(claim_row, results.get("claims") or ()), key=lambda one: ORDER.index(one.verdict))
    strips, scale = on_one_scale(recipes)
    page = render(
        "comparison.html",
        title=f"Comparison on {results['task']}" if recipes else "What papers claim, and what was measured",
        results=results,
        notes=list(map(str, results.get("notes") or ())),
        strips=strips,
        scale=scale,
        width=WIDTH,
        charts=[labeled(draw(one)) if together else draw(one) for one in charts],
        together=together,
        claims=claims,
        counts={name: count for name in ORDER if (count := sum(one.verdict == name for one in claims))},
        not_run=[name for name in RECIPES if name not in recipes] if "claims" in results else [],
    )
    return written(page, Path(out))


# --- one recipe a row


def on_one_scale(recipes: Mapping[str, Mapping[str, Any]]) -> tuple[list[Strip], list[tuple[float, str]]]:
    """The recipes, the best mean first, and the scale's ticks as (place, label)."""
    ends = {name: [last_of(run) for run in row["runs"]] for name, row in recipes.items()}
    begins = {name: as_number(row.get("start")) for name, row in recipes.items()}
    every = [x for values in ends.values() for x in values if drawable(x)]
    every += [x for x in begins.values() if x is not None and drawable(x)]
    low, high = min([0.0, *every]), max([0.0, *every]) or 1.0
    if all(0 <= x <= 1 for x in every):
        high = 1.0

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(EDGE + share * (WIDTH - 2 * EDGE), 1)

    strips = []
    for name, row in recipes.items():
        known = [x for x in ends[name] if drawable(x)]
        mean = statistics.fmean(known) if known else None
        between, start = interval(known), begins[name]
        strips.append(
            Strip(
                name,
                row,
                [place(x) for x in known],
                None if mean is None else place(mean),
                between and (place(between[0]), place(between[1])),
                None if start is None or not drawable(start) else place(start),
                described(known, mean, between),
            )
        )
    strips.sort(key=lambda one: -math.inf if one.mean is None else one.mean, reverse=True)
    return strips, [(place(x), number(x)) for x in (low, (low + high) / 2, high)]


def last_of(run: Mapping[str, Any]) -> float:
    """A run's last headline; NaN without one."""
    points = run.get("points") or [{}]
    value = as_number(points[-1].get("headline"))
    return math.nan if value is None else value


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean over seeds; None where they show no spread, which is no certainty."""
    if len(values) < 2 or max(values) == min(values):
        return None
    student = TWO_SIDED_95[min(len(values) - 1, len(TWO_SIDED_95)) - 1]
    mean, reach = statistics.fmean(values), student * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def described(values: Sequence[float], mean: float | None, between: tuple[float, float] | None) -> str:
    """A strip in words."""
    if mean is None:
        return "no value"
    each = ", ".join(map(number, values))
    said = f"95 % interval {number(between[0])} to {number(between[1])}" if between else "no interval"
    return f"seeds {each}; mean {number(mean)}; {said}"


# --- claims


def claim_row(claim: Mapping[str, Any]) -> ClaimRow:
    """A claim of ``methods.json`` in words."""
    higher, lower = (claim[side] for side in ("higher", "lower"))
    differences = [a - b for a, b in zip(higher["by_seed"], lower["by_seed"], strict=False)]
    verdict = str(claim["verdict"])
    return ClaimRow(
        str(claim["method"]),
        str(claim["says"]),
        str(claim["metric"]),
        f"{higher['variant']} {mean_of(higher['by_seed'])} {claim['rule']} {lower['variant']} "
        f"{mean_of(lower['by_seed'])}",
        effect_of(differences, claim.get("interval")),
        verdict if verdict in ORDER else "undecided",
        MOOD.get(verdict, "soft"),
        str(claim.get("caveat") or ""),
    )


def effect_of(differences: Sequence[float], interval: Any) -> str:
    """The mean difference with its interval, or where none is given with its standard error."""
    known = (
        [x for x in map(as_number, interval) if x is not None] if isinstance(interval, list | tuple) else []
    )
    if len(known) != 2 or not differences:
        return mean_of(differences)
    low, high = map(number, known)
    return f"{number(statistics.fmean(differences))} [{low}, {high}]".replace("-", "−")


def mean_of(values: Sequence[float]) -> str:
    """Mean ± standard error; of equal values, or one, the mean alone."""
    if not values:
        return "–"
    spread = len(values) > 1 and max(values) > min(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if spread else None
    return measured(statistics.fmean(values), error).replace("-", "−")


# --- curves


def panels(recipes: Mapping[str, Mapping[str, Any]], headline: str) -> list[Chart]:
    """A plot for each recipe, the best first, all over the same axes: seeds thin, their mean thick."""
    ordered = [one.name for one in on_one_scale(recipes)[0]]
    every = [several_runs.seeds_and_mean(name, recipes[name], "step", 0) for name in ordered]
    points = [point for lines in every for one in lines for point in one.points if all(map(drawable, point))]
    steps = [x for x, _ in points] or [0.0]
    heights = [y for _, y in points] or [0.0]
    return [
        Chart(
            cut(name, MOST_LABEL),
            cut(headline, MOST_LABEL),
            tuple(replace(one, label="mean of the seeds") for one in lines),
            x_range=(min(steps), max(steps)),
            y_range=(min(heights), max(heights)),
        )
        for name, lines in zip(ordered, every, strict=True)
    ]


def labeled(drawing: Drawing) -> Drawing:
    """With each line's name at its end."""
    return replace(drawing, ends=line_ends(drawing))


def line_ends(drawing: Drawing) -> list[tuple[float, float, str, int]]:
    """(x, y, label, color) of the labels at the lines' ends, moved apart where they would meet."""
    lines = [one for one in drawing.lines if not one.faint and one.last is not None]
    placed: list[tuple[float, float, str, int]] = []
    for one in sorted(lines, key=lambda line: line.last[1] if line.last else 0.0):
        x, y = one.last or (0.0, 0.0)
        least = placed[-1][1] + APART if placed else 0.0
        placed.append((x, max(y - 5, least, 12.0), one.label, one.color))
    return placed
