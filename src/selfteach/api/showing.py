"""What a run wrote down of its answers and numbers, chosen: ``Result.samples`` and ``Result.csv``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from selfteach.checks import nearest, require
from selfteach.report.rows import Row
from selfteach.report.text import as_number
from selfteach.task.outcome import OUTCOMES

PHASES = ("before", "train", "probe", "after")


def outcome_of(row: Mapping[str, Any]) -> str:
    """What became of an answer of samples.jsonl, of an earlier version's too, which holds the reward alone."""
    if isinstance(row.get("outcome"), str):
        return str(row["outcome"])
    reward = as_number(row.get("reward"))
    if reward is None:
        return "ungraded"
    return "right" if reward >= 0.5 else "cut off" if row.get("finished") is False else "wrong"


def chosen(
    rows: Iterable[Row],
    *,
    step: int | None = None,
    phase: str | None = None,
    key: str | None = None,
    outcome: str | None = None,
) -> list[Row]:
    """The answers of samples.jsonl that fit all that is given. UserError, which says what there is, for a step, a
    phase, a key or an outcome that no answer has."""
    found = [{**row, "outcome": outcome_of(row)} for row in rows if row.get("kind", "text") == "text"]
    require(bool(found), "the run has written no answers down yet")
    tests: list[tuple[str, Any, Callable[[Row], bool]]] = [
        ("step", step, lambda row: row["step"] == step),
        ("phase", phase, lambda row: row.get("phase") == phase),
        ("key", key, lambda row: row.get("key") == key),
        ("outcome", outcome, lambda row: row["outcome"] == outcome),
    ]
    if outcome is not None:
        require(outcome in OUTCOMES, f"there is no outcome {outcome!r}{nearest(outcome, OUTCOMES)}")
    for name, wanted, fits in tests:
        if wanted is not None:
            left = [row for row in found if fits(row)]
            known = [str(one) for one in dict.fromkeys(row.get(name) for row in found)]
            require(bool(left), f"no answer has {name} {wanted}{nearest(str(wanted), known)}")
            found = left
    return found


def write_metrics(rows: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Metrics as CSV, one row a step and one an evaluation; "-" is standard output. A column of what is no number or
    text holds JSON."""
    if str(path) == "-":
        written(rows, sys.stdout)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        written(rows, file)


def written(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.writer(file, lineterminator="\n")
    table.writerow(columns)
    table.writerows([cell(row.get(name)) for name in columns] for row in rows)


def cell(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, list | dict | bool) else value
