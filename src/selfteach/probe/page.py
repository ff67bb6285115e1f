"""A finding as one self-contained HTML page, which loads nothing, runs nothing and shows model text as inert text."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from selfteach.probe.finding import Cell, Finding, Table, shown
from selfteach.probe.interval import Interval
from selfteach.report import text

WIDTH = 160
MOST_WORDS = 400


@dataclass(frozen=True)
class Bar:
    """An interval's places, and that of 0, on a line of ``WIDTH`` units."""

    low: float
    estimate: float
    high: float
    zero: float


def write_page(found: Finding, folder: Path) -> Path:
    """Write ``probe-NAME.html`` and return its path."""
    made = Environment(
        loader=PackageLoader("selfteach.probe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=inert,
    )
    made.filters |= {"shown": cell_shown, "block": text.block, "marked": text.marked}
    made.globals |= {"bars": bars, "width": WIDTH}
    style = made.get_template("probe.css").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    html = made.get_template("probe.html").render(found=found, style=Markup(style), policy=policy)
    path = folder / f"probe-{found.probe}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def cell_shown(value: Cell) -> str:
    """A cell in words; a name of any length does not widen the page."""
    return text.name(value, MOST_WORDS) if isinstance(value, str) else shown(value)


def inert(value: object) -> str:
    return value if isinstance(value, Markup) else text.visible(str(value))


def bars(table: Table) -> dict[str, list[Bar | None]]:
    """Each column of intervals as bars on one scale; columns without any are left out."""
    drawn: dict[str, list[Bar | None]] = {}
    for name in table.columns:
        cells = [row[name] for row in table.rows]
        if any(map(drawable, cells)):
            drawn[name] = on_one_scale(cells)
    return drawn


def on_one_scale(cells: Sequence[Cell]) -> list[Bar | None]:
    known = [cell for cell in cells if isinstance(cell, Interval) and drawable(cell)]
    least, most = min(0.0, *(one.low for one in known)), max(0.0, *(one.high for one in known))
    span = (most - least) or 1.0

    def place(value: float) -> float:
        return round(4 + (WIDTH - 8) * (value - least) / span, 1)

    return [
        Bar(place(cell.low), place(cell.estimate), place(cell.high), place(0.0))
        if isinstance(cell, Interval) and drawable(cell)
        else None
        for cell in cells
    ]


def drawable(cell: Cell) -> bool:
    return isinstance(cell, Interval) and all(map(math.isfinite, (cell.estimate, cell.low, cell.high)))
