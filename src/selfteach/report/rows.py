"""JSON of a run folder, which may be broken or still being written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfteach.report.text import as_number

Row = dict[str, Any]


def read_rows(path: Path, notes: list[str]) -> list[Row]:
    """The rows with a finite step; a last line still being written is no fault."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = [row for row in map(parsed, lines) if step_of(row) is not None]
    if broken := len(lines) - len(rows):
        notes.append(f"{path.name}: {broken} of {len(lines)} lines are no rows and are left out.")
    return rows


def read_object(path: Path, notes: list[str]) -> Row:
    if not path.exists():
        return {}
    found = parsed(path.read_bytes())
    if not found:
        notes.append(f"{path.name} could not be read.")
    return found


def parsed(line: bytes) -> Row:
    """A JSON object, or {} if the line is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def step_of(row: Mapping[str, Any]) -> float | None:
    step = as_number(row.get("step"))
    return step if step is not None and abs(step) < 2**53 else None
