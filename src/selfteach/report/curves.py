"""From metric rows to charts: which numbers belong together, and under which names. No drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from selfteach.report.smoothing import smoothed
from selfteach.report.text import as_number, cut, drawable, number

MOST_SERIES = 8
MOST_CHARTS = 60
MOST_LABEL = 120
BUCKETS = 250
"""Stretches of a chart's lines, all together, of which each keeps its ends: more cannot be told apart."""
DEEPEST = 3
LONGEST_TURN = 9
"""Digits of a turn's number."""
NOT_DRAWN = ("step", "eval/problems")

Point = tuple[float, float]
Columns = Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Series:
    """One line: points (x, y), an optional standard error for each, and which color it has.

    ``smooth``: a line drawn over the points, which then stand pale behind it.
    """

    label: str
    points: tuple[Point, ...]
    errors: tuple[float, ...] = ()
    color: int = 0
    faint: bool = False
    smooth: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes; ``unit`` says what y is; x spans ``x_range`` and every point, y also ``y_range``.

    ``kind``: what the chart is for, whatever its title says; ``metrics``: their names; ``not_finite``: how many values
    cannot be drawn (None: as many as the series have).
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    x_label: str = "step"
    x_range: tuple[float, ...] = ()
    note: str = ""
    kind: str = ""
    metrics: tuple[str, ...] = ()
    y_range: tuple[float, ...] = ()
    not_finite: int | None = None

    @property
    def shows(self) -> tuple[str, tuple[str, ...]]:
        """What it shows: no other chart has to."""
        return self.x_label, self.metrics


@dataclass(frozen=True)
class Wanted:
    """A chart to make if the run has any metric that matches ``patterns``."""

    title: str
    unit: str
    patterns: tuple[str, ...]
    label: Callable[[str], str] = lambda name: name


def after_slash(name: str) -> str:
    return name.partition("/")[2]


HEADLINE = "eval/headline"
HELD_OUT = "band: ± 1 standard error"
MAIN = (
    Wanted(HEADLINE, HELD_OUT, (HEADLINE, "eval/pass@*", "eval/*/accuracy"), after_slash),
    Wanted("Loss", "as the recipe defines it", ("loss",)),
    Wanted("Terms of the loss", "each with its own coefficient", ("terms/*",), after_slash),
    Wanted("Divergence", "nats a token", ("divergence/*",), after_slash),
    Wanted("Divergence by turn", "nats a token, of the turns of episodes, from turn 0 on", ("divergence_by_turn/*",),
           after_slash),
    Wanted("Share of the divergence, by token class", "of its sum over tokens", ("divergence_share/*",), after_slash),
    Wanted("Entropy", "nats a token", ("entropy/*",), after_slash),
    Wanted("Top tokens in common", "share of the student's likeliest that are the teacher's too", ("overlap/*",),
           after_slash),
    Wanted("Mass on the top tokens", "the student's probability on its own and the teacher's likeliest", ("mass/*",),
           after_slash),
    Wanted("Response length", "tokens", ("length/*", "eval/length"),
           lambda name: "held-out" if name == "eval/length" else f"training, {after_slash(name)}"),
    Wanted("Training reward", "mean over all texts of the step, whoever wrote them", ("reward/mean",), after_slash),
    Wanted("Spread of the reward", "over the step; share of groups without any", ("reward/std", "reward/zero_std"),
           after_slash),
    Wanted("Answers cut off", "share that met the length limit", ("truncated",)),
    Wanted("Diversity", "share of token sequences that differ; repetition within a rollout",
           ("distinct/*", "repetition/*"), lambda name: name.replace("/", ", ")),
    Wanted("Leakage", "share of rollouts that copy or mention what was private", ("leakage/*",), after_slash),
    Wanted("Spent", "so far", ("spent/*",), after_slash),
    Wanted("Speed", "generated tokens a second", ("tokens_per_second",), lambda name: "tokens a second"),
    Wanted("Time by phase", "seconds a step", ("seconds/*",), after_slash),
    Wanted("Memory", "peak", ("memory/*",), lambda name: after_slash(name).removesuffix("_bytes")),
)  # fmt: skip
DIVERGENCE, BY_TURN = "Divergence", "Divergence by turn"
LEADING = (HEADLINE, "Training reward", DIVERGENCE, "Response length", "Entropy", "Loss", "Terms of the loss")
"""What a reader looks at first, in this order."""
LEADERS = 4
LAST = ("Spent", "Speed", "Time by phase", "Memory")
"""What leads only where there is nothing else."""
SIZES = ((1e9, "GB"), (1e6, "MB"))


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Every number of the rows by name (nested ones joined by "/"), as points (step, value)."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        for name, value in flat(row):
            if name not in NOT_DRAWN and (y := as_number(value)) is not None:
                found.setdefault(name, []).append((row["step"], y))
    return without_copies(found)


def without_copies(found: dict[str, list[Point]]) -> dict[str, list[Point]]:
    """Without the number under its own name that is the headline already."""
    followed = found.get(HEADLINE)
    copies = {n for n, points in found.items() if n.startswith("eval/") and points == followed} - {HEADLINE}
    return {n: points for n, points in found.items() if n.removesuffix("_se") not in copies}


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/") if prefix.count("/") < DEEPEST else ()
        else:
            yield prefix + key, value


def main_charts(found: Columns, headline: str = "held-out accuracy") -> list[Chart]:
    """The charts every run should show, as far as it has their numbers; ``headline``: what ``eval/headline`` is."""
    charts = []
    for wanted in MAIN:
        names = [n for p in wanted.patterns for n in found if fnmatchcase(n, p) and not n.endswith("_se")]
        if wanted.title == "Terms of the loss" and len(names) < 2:
            continue
        if wanted.title == DIVERGENCE:
            charts += divergence_charts(found, names, wanted)
        elif wanted.title == BY_TURN:
            charts += turn_charts(found, names, wanted.unit)
        elif wanted.title == HEADLINE and names:
            labels = [(headline if n == HEADLINE else wanted.label(n), n) for n in names]
            unit = wanted.unit if f"{HEADLINE}_se" in found else ""
            charts.append(replace(chart(capital(headline), unit, labels, found), kind=HEADLINE))
        elif names:
            one = chart(wanted.title, wanted.unit, [(wanted.label(n), n) for n in names], found)
            charts.append(replace(one, kind=wanted.title))
    return charts


def leading_charts(found: Columns, main: Sequence[Chart], others: Sequence[Chart]) -> list[Chart]:
    """The few charts to see first: of ``main``, then whatever else there is. A divergence by classes leads by its
    totals."""
    totals = totals_chart(found)
    ordered = [totals if kind == DIVERGENCE else one for kind in LEADING for one in first(main, kind)]
    rest = [one for one in main if one not in ordered and one.kind not in (DIVERGENCE, *LAST)]
    late = [one for one in main if one.kind in LAST]
    return [one for one in [*ordered, *rest, *others, *late] if one is not None][:LEADERS]


def first(charts: Sequence[Chart], kind: str) -> list[Chart]:
    return [one for one in charts if one.kind == kind][:1]


def totals_chart(found: Columns) -> Chart | None:
    """Every teacher's divergence over all tokens, without its classes; None where none was measured."""
    names = [n for n in found if n.startswith("divergence/") and n.count("/") == 1 and not n.endswith("_se")]
    if not names:
        return None
    to = "the teacher" if len(names) == 1 else "each teacher"
    made = chart(f"Divergence from {to}", "nats a token", [(after_slash(n), n) for n in names], found)
    return replace(made, kind=DIVERGENCE)


def divergence_charts(found: Columns, names: Sequence[str], wanted: Wanted) -> list[Chart]:
    """Divergence by token class, one chart a teacher: ``divergence/TEACHER`` and ``divergence/TEACHER/CLASS``."""
    teachers = list(dict.fromkeys(n.split("/")[1] for n in names if n.count("/") > 1))
    charts = []
    for teacher in teachers:
        stem = f"divergence/{teacher}"
        own = [
            (n.removeprefix(stem).lstrip("/") or "all tokens", n)
            for n in names
            if f"{n}/".startswith(stem + "/")
        ]
        charts.append(chart(f"Divergence from {teacher}, by token class", wanted.unit, own, found))
    rest = [(after_slash(n), n) for n in names if n.split("/")[1] not in teachers]
    charts += [chart(DIVERGENCE, wanted.unit, rest, found)] if rest else []
    return [replace(one, kind=DIVERGENCE) for one in charts]


def turn_charts(found: Columns, names: Sequence[str], unit: str) -> list[Chart]:
    """``divergence_by_turn/TEACHER/TURN``: a chart a teacher over the steps, a line a turn, spread evenly where there
    are many; and one over the turns, at the first and the last step that measured any, a line a teacher each."""
    lines: dict[str, dict[int, str]] = {}
    rest: list[str] = []
    for name in names:
        teacher, _, turn = after_slash(name).rpartition("/")
        if turn.isdecimal() and turn.isascii() and len(turn) < LONGEST_TURN:
            lines.setdefault(teacher, {})[int(turn)] = name
        else:
            rest.append(name)
    charts = [over_steps(found, teacher, turns, unit, len(lines)) for teacher, turns in lines.items()]
    charts += [over_turns(found, lines, unit)] if any(len(turns) > 1 for turns in lines.values()) else []
    charts += [chart(BY_TURN, unit, [(after_slash(n), n) for n in rest], found)] if rest else []
    return [replace(one, kind=BY_TURN) for one in charts]


def over_steps(found: Columns, teacher: str, turns: Mapping[int, str], unit: str, teachers: int) -> Chart:
    ordered = sorted(turns)
    kept = evenly(ordered, MOST_SERIES)
    title = BY_TURN if teachers == 1 else f"Divergence from {teacher}, by turn"
    made = chart(title, unit, [(f"turn {turn}", turns[turn]) for turn in kept], found)
    left = f"{len(ordered) - len(kept)} more turns are in metrics.jsonl." if len(kept) < len(ordered) else ""
    return replace(made, note=f"{made.note} {left}".strip())


def over_turns(found: Columns, lines: Mapping[str, Mapping[int, str]], unit: str) -> Chart:
    steps = [x for turns in lines.values() for name in turns.values() for x, _ in found[name]]
    series: list[Series] = []
    for color, (teacher, turns) in enumerate(list(lines.items())[:MOST_SERIES]):
        for step in dict.fromkeys((max(steps), min(steps))):
            points = [(float(turn), dict(found[turns[turn]]).get(step)) for turn in sorted(turns)]
            known = tuple((x, y) for x, y in points if y is not None)
            label = cut(f"{teacher}, step {number(step)}", MOST_LABEL)
            series += [Series(label, known, color=color, faint=step != max(steps))] if known else []
    names = tuple(name for turns in lines.values() for name in turns.values())
    note = (
        f"Thick: at step {number(max(steps))}; thin: at step {number(min(steps))}."
        if min(steps) < max(steps)
        else ""
    )
    return Chart(
        "Divergence over the turns of an episode", unit, tuple(series), "turn", note=note, metrics=names
    )


def evenly(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def other_charts(found: Columns) -> list[Chart]:
    """What ``main_charts`` leaves out, a chart for each first part of a name, or several where one would be full."""
    shown = {n for w in MAIN for p in w.patterns for n in found if fnmatchcase(n, p)}
    groups: dict[str, list[str]] = {}
    for name in found:
        if name not in shown and not name.endswith("_se"):
            groups.setdefault(name.partition("/")[0], []).append(name)
    parts = [
        (head, names[i : i + MOST_SERIES])
        for head, names in groups.items()
        for i in range(0, len(names), MOST_SERIES)
    ]
    made = [
        chart(head, "", [(after_slash(n) or n, n) for n in part], found) for head, part in parts[:MOST_CHARTS]
    ]
    if left := sum(len(part) for _, part in parts[MOST_CHARTS:]):
        said = f"{made[-1].note} {left} more metrics, each by its name, are in metrics.jsonl.".strip()
        made[-1] = replace(made[-1], note=said)
    return made


def chart(title: str, unit: str, named: Sequence[tuple[str, str]], found: Columns) -> Chart:
    """A chart of the metrics ``named`` (label, name), thinned to what can be seen; bytes become MB or GB."""
    kept = named[:MOST_SERIES]
    lines = {name: found[name] for _, name in kept}
    if all(name.endswith("_bytes") for name in lines):
        lines, size = in_sizes(lines)
        unit = ", ".join(filter(None, (unit, size)))
    seen, hidden = steps_to_draw(list(lines.values())), 0
    series, windows = [], []
    for color, (label, name) in enumerate(kept):
        points, errors = lines[name], dict(found.get(f"{name}_se", ()))
        shown = tuple(point for point in points if point[0] in seen)
        own = tuple(errors.get(x, math.nan) for x, _ in shown) if errors else ()
        window, smooth = (0, ()) if errors else smoothed(points, BUCKETS // len(kept))
        hidden += sum(not drawable(y) for _, y in points)
        windows.append(window)
        series.append(Series(cut(label, MOST_LABEL), shown, own, color, smooth=smooth))
    notes = [smoothing_said(windows)] if any(windows) else []
    if left := len(named) - len(kept):
        notes.append(f"{left} more are in metrics.jsonl.")
    return Chart(
        cut(title, MOST_LABEL),
        unit,
        tuple(series),
        x_range=span(found),
        note=" ".join(notes),
        metrics=tuple(name for _, name in kept),
        not_finite=hidden,
    )


def smoothing_said(windows: Sequence[int]) -> str:
    """What the thick lines are."""
    sizes = sorted({one for one in windows if one})
    width = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"Thick: mean of the {width} values around each; pale: the values themselves, which the pointer reads."


def in_sizes(lines: Columns) -> tuple[dict[str, Sequence[Point]], str]:
    """Bytes as GB or MB, whichever suits the greatest, and which of the two."""
    most = max((y for points in lines.values() for _, y in points if drawable(y)), default=0.0)
    size, name = next((one for one in SIZES if most >= one[0]), SIZES[-1])
    return {key: [(x, y / size) for x, y in points] for key, points in lines.items()}, name


def span(found: Columns) -> tuple[float, ...]:
    """The first and last step of all metrics: every chart of a run has the same x axis."""
    ends = [points[i][0] for points in found.values() if points for i in (0, -1)]
    return (min(ends), max(ends)) if ends else ()


def steps_to_draw(lines: Sequence[Sequence[Point]]) -> set[float]:
    """The steps to keep of long lines: in each stretch the first, the least and the greatest of every line, and one
    that is NaN."""
    kept: set[float] = set()
    buckets = max(1, BUCKETS // max(1, len(lines)))
    for points in lines:
        size = max(1, math.ceil(len(points) / buckets))
        for start in range(0, len(points), size):
            stretch = points[start : start + size]
            unknown = [x for x, y in stretch if math.isnan(y)][:1]
            known = [point for point in stretch if not math.isnan(point[1])] or stretch[:1]
            ends = (min(known, key=second), max(known, key=second)) if size > 1 else known
            kept |= {stretch[0][0], *(x for x, _ in ends), *unknown}
        kept |= {points[-1][0]} if points else set()
    return kept


def second(point: Point) -> float:
    return point[1]
