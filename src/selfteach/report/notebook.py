"""A run in a notebook: its first curve, its first numbers, and a link to the whole report."""

from __future__ import annotations

from collections.abc import Sequence

from selfteach.report import curves
from selfteach.report.page import fragment
from selfteach.report.plot import draw
from selfteach.report.reading import RunData


def notebook_card(run: RunData, lines: Sequence[tuple[str, str]], link: str) -> str:
    """HTML without scripts: ``lines`` as a table of (label, value), the run's first chart, ``link`` to its report."""
    charts = curves.main_charts(curves.columns(run.metrics), run.headline)
    drawing = draw(charts[0]) if charts else None
    return fragment("notebook.html", lines=lines, drawing=drawing, link=link)
