"""Collapse watch: from the rows of metrics.jsonl to alarms that say what was seen, since when, and what papers advise.

Pure functions of a bounded memory: the first row (the untrained policy), the first few and the latest few. A resumed
run finds the same memory again by reading its rows (``remembered``). What each sounds at stands in ``alarm_rules``,
what to do about it in ``advice``; each kind of alarm: docs/alarms.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any, Literal

from selfteach.training.advice import Settings, advised
from selfteach.training.alarm_rules import AT_ONCE, NOISE, RULES, Means, Rule, Seen, looked_at

START = 5
"""Rows whose mean is "at the start" where one row is too noisy: rewards."""
WINDOW = 10
"""Latest rows whose mean is "now". No alarm that looks at means sounds before there are so many."""
IN_A_ROW = 3
"""One step without a gradient may be chance where groups are few; a run that begins so, or three steps, are none."""


@dataclass(frozen=True)
class Alarm:
    """``since``: the first step that shows it; ``seen``: the numbers; ``advice``: what to do, and from which paper."""

    name: str
    since: int
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class Memory:
    """What the watch keeps of a run: a few rows of the metrics it looks at, and which alarms sound since when.

    ``better``: which way ``eval/headline`` should go; ``headline``: the last one, the best, and the share of it lost.
    """

    better: Literal["higher", "lower"] = "higher"
    headline: Means = field(default_factory=dict)
    first: Means = field(default_factory=dict)
    start: tuple[Means, ...] = ()
    recent: tuple[Means, ...] = ()
    alarms: tuple[Alarm, ...] = ()


def after(memory: Memory, row: Mapping[str, Any]) -> Memory:
    """The memory with one more row of metrics.jsonl.

    Of an evaluation only the headline is kept, and nothing of a step on text that the policy did not write: entropy
    and length on a data set's own tokens say nothing about what the policy does.
    """
    if "eval/headline" in row:
        return replace(memory, headline=headline(memory, row))
    if "loss" not in row or ("length/mean" in row and "repetition/looping" not in row):
        return memory
    kept = {**looked_at(row), **memory.headline}
    if memory.first.get("stage") != kept.get("stage"):  # another loss: what was normal is not any more
        memory = Memory(memory.better, memory.headline)
    memory = replace(
        memory,
        first=memory.first or kept,
        start=memory.start if len(memory.start) == START else (*memory.start, kept),
        recent=(*memory.recent, kept)[-WINDOW:],
    )
    return replace(
        memory, alarms=(*immediate(memory), *(sounding(memory) if len(memory.recent) == WINDOW else ()))
    )


def headline(memory: Memory, row: Mapping[str, Any]) -> Means:
    """The headline of an evaluation, the best so far, and the share of the best that it has lost beyond its noise."""
    last, error = row["eval/headline"], row.get("eval/headline_se", 0.0)
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (last, error)):
        return memory.headline
    choose = max if memory.better == "higher" else min
    best = choose(memory.headline.get("eval/best", last), last)
    gap = abs(best - last)
    lost = gap / abs(best) if best and gap > NOISE * error else 0.0
    return {"eval/headline": float(last), "eval/best": float(best), "eval/lost": lost}


def remembered(rows: Iterable[Mapping[str, Any]], start: Memory | None = None) -> Memory:
    """The memory of a whole metrics.jsonl; ``start``: that of a run that has not begun."""
    return reduce(after, rows, start or Memory())


def judged(
    memory: Memory, row: Mapping[str, Any], settings: Settings | None = None
) -> tuple[Memory, dict[str, Any]]:
    """The memory after ``row``, and the row with the alarms that begin to sound at it, if any, as ``alarms``: with
    advice that fits the run's ``settings``."""
    sounded = {alarm.name for alarm in memory.alarms}
    memory = after(memory, row)
    new = [
        asdict(replace(alarm, advice=advised(alarm.name, settings or {})))
        for alarm in memory.alarms
        if alarm.name not in sounded
    ]
    return memory, {**row, "alarms": new} if new else dict(row)


def immediate(memory: Memory) -> tuple[Alarm, ...]:
    """What rows show one by one: the first row of a stage, or the latest ``IN_A_ROW``; and what was shown lately."""
    known = {alarm.name: alarm for alarm in memory.alarms}
    begins = len(memory.recent) == len(memory.start) == 1
    found = []
    for name, rule in AT_ONCE.items():
        shown = [rule(Seen(memory.first, row, row)) for row in memory.recent]
        last = shown[-1:] if begins else shown[-IN_A_ROW:]
        if name in known and any(shown):
            found.append(known[name])
        elif all(last) and (begins or len(last) == IN_A_ROW):
            found.append(Alarm(name, int(memory.recent[-len(last)]["step"]), str(shown[-1])))
    return tuple(found)


def sounding(memory: Memory) -> tuple[Alarm, ...]:
    start, now = mean(memory.start), mean(memory.recent)
    since = {alarm.name: alarm.since for alarm in memory.alarms}
    found = []
    for name, rule in RULES.items():
        seen = rule(Seen(memory.first, start, now))
        if seen is not None:
            step = since.get(name) or first_step(memory, start, rule)
            found.append(Alarm(name, step, seen))
    return tuple(found)


def first_step(memory: Memory, start: Means, rule: Rule) -> int:
    """The first of the latest rows that shows by itself what their mean shows; the newest if none does."""
    shows = [row for row in memory.recent if rule(Seen(memory.first, start, row)) is not None]
    return int((shows or memory.recent[-1:])[0]["step"])


def mean(rows: Sequence[Means]) -> dict[str, float]:
    """Mean of each metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}
