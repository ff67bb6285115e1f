"""Did it learn, and can that be believed: what a run's page says first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from selfteach.report.curves import HEADLINE, MOST_LABEL, Columns, capital
from selfteach.report.reading import RunData
from selfteach.report.rows import Row
from selfteach.report.text import as_number, cut, drawable, measured, number
from selfteach.task.outcome import UNREAD

Z = 1.96
"""Standard errors to both sides of a 95 % interval."""
RECENT = 10
OFTEN = 0.05
"""From this share of answers on, the page speaks of it."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation's headline, its standard error (None: not known) and how many problems it had."""

    step: float
    value: float
    error: float | None
    problems: float | None


@dataclass(frozen=True)
class Learned:
    """``answer``: a sentence; ``mood``: "good" or "bad" where the change is more than chance explains; ``how``: how
    the interval was made."""

    answer: str
    mood: Literal["good", "bad", "plain"] = "plain"
    how: str = ""


def learned(run: RunData) -> Learned:
    """What the first and the last evaluation say of the run's headline."""
    seen, what = evaluations(run.metrics), cut(run.headline, MOST_LABEL)
    if not seen:
        return Learned(f"Nothing was evaluated, so nothing is known of {what}.")
    first, last = seen[0], seen[-1]
    if len(seen) == 1:
        return Learned(
            f"{capital(what)} was {measured(first.value, first.error)} at step {number(first.step)}; "
            "a second evaluation will tell whether it moves."
        )
    if not math.isfinite(last.value):
        return Learned(
            f"{capital(what)} is not finite after {number(last.step)} steps: the run has diverged.", "bad"
        )
    change = last.value - first.value
    way = "went" if not change else "rose" if change > 0 else "fell"
    moved = f"{capital(what)} {way} from {measured(first.value)} to {measured(last.value)} in {number(last.step)} steps"
    errors = [half_width(one) for one in (first, last)]
    if None in errors or not all(map(drawable, (change, *(e for e in errors if e is not None)))):
        return Learned(f"{moved}; how certain that is was not measured.")
    reach = math.hypot(*(e for e in errors if e is not None))
    most = 1.0 if "accuracy" in run.headline else math.inf
    between = f"{signed(max(change - reach, -most))} to {signed(min(change + reach, most))}"
    if abs(change) <= reach:
        return Learned(
            f"{moved}: no more than chance explains (95 % interval of the change: {between}).", how=HOW
        )
    better = change > 0 if better_is(run.config) == "higher" else change < 0
    return Learned(
        f"{moved}: more than chance explains (95 % interval of the change: {between}).",
        "good" if better else "bad",
        HOW,
    )


HOW = (
    "From the standard errors of both evaluations, as if they had asked different problems: they ask the same ones, so "
    "the true interval is rather narrower. Where every problem was answered alike, Wilson's interval of the share is "
    "taken, which has a width. Another seed is another run: it is not in this interval."
)


def evaluations(rows: Sequence[Row]) -> list[Evaluation]:
    """Every evaluation with a headline, in the order of the file."""
    found = []
    for row in rows:
        value = as_number(row.get(HEADLINE))
        if value is not None:
            error, problems = (as_number(row.get(name)) for name in (f"{HEADLINE}_se", "eval/problems"))
            found.append(Evaluation(row["step"], value, error, problems))
    return found


def half_width(one: Evaluation) -> float | None:
    """Half a 95 % interval; where all n problems came out alike, the width of Wilson's interval of 0 or n of n."""
    if one.error == 0 and one.value in (0.0, 1.0):
        return Z**2 / (one.problems + Z**2) if one.problems and one.problems > 0 else None
    return None if one.error is None else Z * one.error


def better_is(config: Row) -> str:
    run = config.get("run")
    return str(run.get("better", "higher")) if isinstance(run, dict) else "higher"


def signed(value: float) -> str:
    """+0.012 · −0.3."""
    return f"{'+' if value > 0 else ''}{number(value)}"


def doubts(run: RunData, found: Columns) -> list[str]:
    """What to know before believing the page; [] for nothing."""
    hidden = {name: sum(not drawable(y) for _, y in points) for name, points in found.items()}
    broken = {name: count for name, count in hidden.items() if count}
    said = []
    if broken:
        few = ", ".join(f"{name[:60]} ({number(count)})" for name, count in list(broken.items())[:3])
        more = f" and {len(broken) - 3} more metrics" if len(broken) > 3 else ""
        said.append(f"Values that are not finite: {few}{more}. They are not drawn.")
    if (long := recent(found, "truncated")) >= OFTEN:
        said.append(
            f"{number(100 * long)} % of the latest training answers met the length limit: they earn nothing as long as "
            "they do not end (--max-tokens)."
        )
    if (unread := unread_share(found)) >= OFTEN:
        said.append(
            f"{number(100 * unread)} % of the latest training answers held no answer that could be read."
        )
    return said


def recent(found: Columns, name: str) -> float:
    """The mean of a metric's last values that are known; 0 without any."""
    known = [y for _, y in found.get(name, ())[-RECENT:] if drawable(y)]
    return statistics.fmean(known) if known else 0.0


def unread_share(found: Columns) -> float:
    """The share of the latest graded answers in which nothing readable was found."""
    last = max((points[-1][0] for name, points in found.items() if name.startswith("verdicts/")), default=0.0)
    after = last - RECENT
    counts = {
        name.partition("/")[2]: sum(y for x, y in points if x > after and drawable(y))
        for name, points in found.items()
        if name.startswith("verdicts/")
    }
    whole = sum(counts.values())
    return sum(counts.get(name, 0.0) for name in UNREAD) / whole if whole else 0.0
