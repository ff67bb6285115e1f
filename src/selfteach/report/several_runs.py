"""Charts of several runs: what they have in common, and what methods learn by what they spend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfteach.report.curves import (
    HEADLINE,
    HELD_OUT,
    MOST_LABEL,
    Chart,
    Columns,
    Series,
    capital,
    chart,
    span,
)
from selfteach.report.text import cut


def other_shared_charts(runs: Sequence[tuple[str, Columns]]) -> list[Chart]:
    """Every other number that two or more of the runs have, one chart each."""
    steps = span_of(runs)
    counted = Counter(name for _, own in runs for name in own if not name.endswith("_se"))
    known = {HEADLINE, *(name for _, _, name in SHARED)}
    return [
        replace(together(name, "", name, runs), x_range=steps)
        for name, count in counted.items()
        if count > 1 and name not in known
    ]


SHARED = (
    ("Training reward", "mean over all texts of the step, whoever wrote them", "reward/mean"),
    ("Response length in training", "tokens", "length/mean"),
    ("Student's entropy", "nats a token", "entropy/student"),
)


def shared_charts(runs: Sequence[tuple[str, Columns]], headline: str = "held-out accuracy") -> list[Chart]:
    """Several runs over the same axes, for the numbers that mean the same in each; ``headline`` as above."""
    steps = span_of(runs)
    return [
        replace(together(title, unit, name, runs), x_range=steps)
        for title, unit, name in ((capital(headline), HELD_OUT, HEADLINE), *SHARED)
        if any(name in own for _, own in runs)
    ]


def together(title: str, unit: str, name: str, runs: Sequence[tuple[str, Columns]]) -> Chart:
    """One metric of all runs that have it, each run a line."""
    lines = [(label, own) for label, own in runs if name in own]
    found = {label + end: own.get(name + end, []) for label, own in lines for end in ("", "_se")}
    return chart(title, unit, [(label, label) for label, _ in lines], found)


def span_of(runs: Sequence[tuple[str, Columns]]) -> tuple[float, ...]:
    return span({f"{i}/{name}": points for i, (_, own) in enumerate(runs) for name, points in own.items()})


def comparison_charts(
    recipes: Mapping[str, Mapping[str, Any]], headline: str = "held-out accuracy", unit: str = "tokens"
) -> list[Chart]:
    """The headline against what was spent and against steps: each seed thin, their mean thick."""
    headline, unit = cut(headline, MOST_LABEL), cut(unit, MOST_LABEL)
    spending = {name: one for name, one in recipes.items() if any(p["spent"] for p in all_points(one))}
    silent = [name for name in recipes if name not in spending]
    absent = ", ".join(cut(name, MOST_LABEL) for name in silent)
    note = f"They spent no {unit}, so they are in the other plot only: {absent}." if silent else ""
    about = f"{headline}; thin: one seed, thick: mean over seeds"
    colors = {name: color for color, name in enumerate(recipes)}
    charts = []
    if spending:
        lines = [
            s for name, one in spending.items() for s in seeds_and_mean(name, one, "spent", colors[name])
        ]
        title = f"{capital(headline)} by {unit} spent"
        charts.append(Chart(title, about, tuple(lines), f"{unit} spent", note=note))
    lines = [s for name, one in recipes.items() for s in seeds_and_mean(name, one, "step", colors[name])]
    return [*charts, Chart(f"{capital(headline)} by step", about, tuple(lines))]


def all_points(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [point for run in recipe["runs"] for point in run["points"]]


def seeds_and_mean(name: str, recipe: Mapping[str, Any], x: str, color: int) -> list[Series]:
    """One line a seed, and their mean over the evaluations that every seed has."""
    name = cut(name, MOST_LABEL)
    lines = [[(float(p[x]), float(p["headline"])) for p in run["points"]] for run in recipe["runs"]]
    seeds = [
        Series(f"{name}, seed {run['seed']}", tuple(line), color=color, faint=True)
        for run, line in zip(recipe["runs"], lines, strict=True)
    ]
    together = list(zip(*lines, strict=False))
    mean = tuple((sum(x for x, _ in at) / len(at), sum(y for _, y in at) / len(at)) for at in together)
    return [*seeds, Series(name, mean, color=color)]
