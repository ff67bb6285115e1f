"""What is kept of a finished run: a row of a few hundred bytes, from which tables are made without the run's folder.

Rows lie in one file a recipe, ``NAME.jsonl``, sorted, so that they can be committed and merged. A row is known by its
words (what is built on in braces), seed and fingerprint; one of another fingerprint is of another time, and replaced.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import filelock

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.outside import parsed_json
from selfteach.report.text import as_number
from selfteach.studies.runs import Planned, curve, labels, plain, rows_of, summary_of, write_aside
from selfteach.studies.study import REDUCTIONS, column_of, reduction_of
from selfteach.training.jsonrows import jsonable
from selfteach.training.running import versions

SUMMARY = "summary/"
KEPT_VERSIONS = ("selfteach", "torch", "transformers", "python", "device")


@dataclass(frozen=True)
class Row:
    """One run, finished or stopped by itself."""

    words: str
    seed: int
    fingerprint: str
    metrics: Mapping[str, Mapping[str, float] | str] = field(default_factory=dict)
    """Column → word of ``REDUCTIONS`` → number; or why there is none."""
    spent: float = 0.0
    unit: str = "tokens"
    seconds: float = 0.0
    """Of training."""
    stopped: str = ""
    """Why the run stopped by itself, without a result (empty: it did not)."""
    curve: Mapping[str, Any] = field(default_factory=dict)
    """Of runs on the common task: what ``runs.curve`` gives, and ``labels``."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """A metric as a claim names it; NaN if any number it is made of is. UserError where the run has none."""
        numbers = self.metrics[column_of(metric)]
        if isinstance(numbers, str):
            raise UserError(f"{self.words} {numbers}")
        return numbers[reduction_of(metric)]


class Rows:
    """The rows of a folder; several processes may write there. UserError for a file that holds no rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, Lock()
        self._rows: dict[tuple[str, int], Row] = {}
        for file in sorted(folder.glob("*.jsonl")):
            self._read(file)

    def _read(self, file: Path) -> None:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            row = parsed_row(line, f"{file}, line {number}")
            require(
                file_name(row.words) == file.name,
                f"{file}, line {number}: a row of recipe {row.words.split(' ')[0]}; move it to {file_name(row.words)}",
            )
            self._rows[row.words, row.seed] = row

    def find(self, words: str, seed: int, fingerprint: str, columns: Collection[str] = ()) -> Row | None:
        """The row of a run, if it is still valid and has these columns (or stopped by itself)."""
        row = self._rows.get((words, seed))
        if row is None or row.fingerprint != fingerprint:
            return None
        return row if row.stopped or set(columns) <= set(row.metrics) else None

    def known(self, recipes: Collection[str]) -> bool:
        """Whether there is a row of any of these recipes."""
        return any(words.split(" ")[0] in recipes for words, _ in self._rows)

    def add(self, row: Row) -> None:
        """Keep a row, as it will be read back: tables of today and of another day are the same."""
        kept = parsed_row(json.dumps(as_json(row)).encode(), row.words)
        name = file_name(row.words)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock, filelock.FileLock(self.folder / ".lock"):
            if (self.folder / name).exists():  # what another process has written since
                self._read(self.folder / name)
            self._rows[row.words, row.seed] = kept
            same = sorted(key for key in self._rows if file_name(key[0]) == name)
            text = "".join(json.dumps(as_json(self._rows[key]), ensure_ascii=False) + "\n" for key in same)
            write_aside(self.folder / name, text)


def file_name(words: str) -> str:
    return f"{plain(words.split(' ')[0])}.jsonl"


def as_json(row: Row) -> dict[str, Any]:
    """Without what is empty; numbers of six digits."""
    return {name: shorter(jsonable(value)) for name, value in asdict(row).items() if value not in ("", {})}


def shorter(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shorter(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shorter(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def parsed_row(line: bytes, where: str) -> Row:
    try:
        table = parsed_json(line)
        row = Row(**table)
        metrics = {name: read_numbers(one) for name, one in row.metrics.items()}
        if not (isinstance(row.seed, int) and isinstance(row.curve, dict) and isinstance(row.stopped, str)):
            raise ValueError
        return Row(**{**table, "metrics": metrics, "words": str(row.words), "spent": float(row.spent)})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(f"{where}: not a row of a study; remove that line") from None


def read_numbers(given: Any) -> Mapping[str, float] | str:
    """A column of a row. ValueError where a number is missing."""
    return given if isinstance(given, str) else {word: float(given[word]) for word in REDUCTIONS}


# --- from a run's folder


def row_of(
    run: Planned, words: str, fingerprint: str, columns: Iterable[str], *, with_curve: bool = False
) -> Row:
    """What is kept of a finished run."""
    summary = summary_of(run)
    known = {name: value for name, value in versions().items() if name in KEPT_VERSIONS}
    drawn = {**curve(run), "labels": labels([run])} if with_curve else {}
    return Row(
        words,
        run.seed,
        fingerprint,
        {name: numbers(run, name) for name in sorted(columns)},
        as_number(summary.get("spent")) or 0.0,
        str(summary.get("unit", "tokens")),
        as_number(summary.get("training_seconds")) or 0.0,
        curve=drawn,
        versions=known,
    )


def numbers(run: Planned, column: str) -> Mapping[str, float] | str:
    """Every reduction of a run's column; NaN where any of its numbers is. Where the run wrote no such metric, or one
    that is no number, that in words, with the nearest names."""
    steps, given, known = found(run, column)
    if not given:
        return f"measured no {column!r}{nearest(column, known)}"
    values = [number for number in map(as_number, given) if number is not None]
    if len(values) < len(given):
        return f"measured {column!r}, which is no number; a claim's metric must be one"
    return {word: reduce(steps, values) for word, reduce in REDUCED.items()}


def found(run: Planned, column: str) -> tuple[list[float], list[Any], list[str]]:
    """(steps, values, all names) of a column of a run."""
    if column.startswith(SUMMARY):
        summary = summary_of(run)
        given = [summary[name] for name in [column.removeprefix(SUMMARY)] if name in summary]
        return [0.0] * len(given), given, [SUMMARY + name for name in summary]
    rows = rows_of(run)
    own = [row for row in rows if column in row]
    return (
        [row["step"] for row in own],
        [row[column] for row in own],
        sorted({name for row in rows for name in row}),
    )


def height(steps: Sequence[float], values: Sequence[float]) -> float:
    """The trapezoids' area under ``values`` over ``steps``, divided by the span; of a single step the mean there."""
    span = steps[-1] - steps[0]
    if not span:
        return statistics.fmean(values)
    points = list(zip(steps, values, strict=True))
    return sum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(points)) / span


def greatest(values: Sequence[float]) -> float:
    """The maximum; NaN if any value is (``max`` would hide it, or not, by order)."""
    return math.nan if any(map(math.isnan, values)) else max(values)


REDUCED: Mapping[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "last": lambda steps, values: values[-1],
    "first": lambda steps, values: values[0],
    "mean": lambda steps, values: statistics.fmean(values),
    "max": lambda steps, values: greatest(values),
    "auc": height,
}
