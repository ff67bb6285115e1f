"""What a run wrote down of its answers and numbers, chosen: ``Result.samples`` and ``Result.csv``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfteach.api.csvfile import write_csv
from selfteach.checks import nearest, require
from selfteach.report.reading import outcome_of
from selfteach.report.rows import Row
from selfteach.task.outcome import OUTCOMES

PHASES = ("before", "train", "probe", "after")


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
    rows = list(rows)
    found = [{**row, "outcome": outcome_of(row)} for row in rows if row.get("kind", "text") == "text"]
    others = {str(row.get("kind")) for row in rows} - {"text"} if not found else set()
    require(not others, f"the run writes no text but {', '.join(sorted(others))}: selfteach report shows it")
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
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))
