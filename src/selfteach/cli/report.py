"""``selfteach report RUN …``: run folders as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from selfteach.cli.console import parsed
from selfteach.report import build_report, comparison_page, read_results
from selfteach.settings import settings


@settings
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; or a comparison's results.json or a study's methods.json."""
    out: Path | None = None
    """Where the page goes (none: report.html in a single run, report-NAMES.html beside the first of several,
    methods.html beside methods.json)."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach report")
    first = given.runs[0] if len(given.runs) == 1 else None
    if first is not None and first.suffix == ".json" and first.is_file():
        print(comparison_page(read_results(first), given.out or first.with_suffix(".html")))
    else:
        print(build_report(list(given.runs), given.out))
    return 0
