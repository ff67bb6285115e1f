"""Rows of a run, one JSON object a line: read back, and what of a value strict JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import parsed_json


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file ([] if there is none); a last row still being written is left out.

    Raises ``UserError`` naming a line that is no row.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(
        path.read_bytes().splitlines(keepends=True) if path.exists() else (), start=1
    ):
        if not line.endswith(b"\n"):
            break
        if (row := step_row(line)) is None:
            raise UserError(f"{path}, line {number}: not a row with a step; remove that line")
        rows.append(row)
    return rows


def step_row(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line, if it has a step that is a number; else None."""
    try:
        row = parsed_json(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(step, int | float) and abs(step) < 2**53 else None


def jsonable(value: Any) -> Any:
    """``value`` as strict JSON can hold it: a tensor of one number is that number, one that is not finite a string."""
    if callable(getattr(value, "item", None)):
        value = value.item()  # a tensor's or an array's one number
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value
