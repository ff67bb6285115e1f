"""JSON of a run folder, which may be broken or still being written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import parsed_json, require_file
from selfteach.report.text import as_number

Row = dict[str, Any]


def read_rows(path: Path, notes: list[str]) -> list[Row]:
    """The rows with a finite step; a last line still being written is no fault."""
    lines = read(path, notes).split(b"\n")[:-1]
    rows = [row for row in map(parsed, lines) if step_of(row) is not None]
    if broken := len(lines) - len(rows):
        notes.append(f"{path.name}: {broken} of {len(lines)} lines are no rows and are left out.")
    return rows


def read_object(path: Path, notes: list[str]) -> Row:
    data = read(path, notes)
    found = parsed(data)
    if data and not found:
        notes.append(f"{path.name} could not be read.")
    return found


def read(path: Path, notes: list[str]) -> bytes:
    """A file's bytes; none if it is not there, or (``notes`` says so) cannot be read."""
    if not os.path.lexists(path):
        return b""
    try:
        return require_file(path, path.name).read_bytes()
    except (UserError, OSError) as problem:
        notes.append(f"{path.name} could not be read: {problem}.")
        return b""


def parsed(line: bytes) -> Row:
    """A JSON object, or {} if the line is none."""
    try:
        found = parsed_json(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def step_of(row: Mapping[str, Any]) -> float | None:
    step = as_number(row.get("step"))
    return step if step is not None and abs(step) < 2**53 else None
