"""What a probe found, as numbers: one structure for the terminal, the JSON file and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from selfteach.probe.interval import Interval
from selfteach.report.text import number, visible

Cell = Interval | float | int | str | None


@dataclass(frozen=True)
class Table:
    """Rows of named cells, all rows with the same columns."""

    title: str
    note: str
    rows: Sequence[Mapping[str, Cell]]

    @property
    def columns(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []


@dataclass(frozen=True)
class Token:
    """A piece of a rollout's text; ``node`` is the place of its row in the rollout's table, if it was looked at."""

    text: str
    node: int | None = None


@dataclass(frozen=True)
class Looked:
    """A rollout as a reader sees it: the problem, the text token by token, and a table of the tokens looked at."""

    problem: str
    correct: bool
    tokens: Sequence[Token]
    table: Table


@dataclass(frozen=True)
class Finding:
    """A probe's result. ``about``: what was probed and how much; ``rows``: the raw rows behind the tables."""

    probe: str
    title: str
    about: Mapping[str, Cell]
    tables: Sequence[Table]
    rows: Sequence[Mapping[str, Any]] = field(default_factory=list)
    rollouts: Sequence[Looked] = field(default_factory=list)


def shown(value: Cell) -> str:
    """A cell in words: ``0.312 [0.250, 0.371] n=128``; ``0.312 (no spread, so no interval) n=8`` where all agree."""
    if not isinstance(value, Interval):
        return number(value)
    if not value.n or math.isnan(value.estimate):
        return f"undefined n={value.n}"
    if math.isnan(value.low) or math.isnan(value.high):
        why = "one prompt" if value.clusters == 1 else "no spread"
        return f"{value.estimate:.3f} ({why}, so no interval) n={value.n}"
    return f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}] n={value.n}"


def on_terminal(table: Table) -> RichTable:
    """The table for a terminal, its text inert."""
    made = RichTable(
        box=SIMPLE_HEAD,
        title=visible(table.title),
        caption=visible(table.note),
        title_justify="left",
        caption_justify="left",
    )
    for name in table.columns:
        made.add_column(Text(visible(name)))
    for row in table.rows:
        made.add_row(*(Text(visible(shown(cell))) for cell in row.values()))
    return made


def write_numbers(found: Finding, folder: Path) -> Path:
    """Write ``probe-NAME.json``; what is not finite becomes null."""
    path = folder / f"probe-{found.probe}.json"
    tables = [{"title": one.title, "note": one.note, "rows": list(one.rows)} for one in found.tables]
    whole = {"probe": found.probe, "about": dict(found.about), "tables": tables, "rows": list(found.rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain(whole), indent=1, allow_nan=False), encoding="utf-8")
    return path


def plain(value: Any) -> Any:
    """Nested intervals and numbers as JSON has them."""
    if isinstance(value, Interval):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
