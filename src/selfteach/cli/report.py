"""``selfteach report RUN …``: run folders as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from selfteach.cli.console import parsed
from selfteach.report import build_report
from selfteach.settings import settings


@settings
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    out: Path | None = None
    """Where the page goes (none: report.html in a single run, report-NAMES.html beside the first of several)."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach report")
    print(build_report(list(given.runs), given.out))
    return 0
