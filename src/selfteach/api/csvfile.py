"""Tables as CSV files."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, its folder made; "-" is standard output."""
    if str(path) != "-":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with (
        nullcontext(sys.stdout)
        if str(path) == "-"
        else Path(path).open("w", encoding="utf-8", newline="") as file
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([cell(value) for value in row] for row in rows)


def cell(value: Any) -> Any:
    """A number with every digit, text as it is, what is neither as JSON; empty where it is not known (None, NaN)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
