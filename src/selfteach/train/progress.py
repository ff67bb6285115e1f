"""Who shows a run while it goes on: the interface; the command line has the bars and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from selfteach.train.evaluation import Result


class Progress(Protocol):
    """Who shows a run while it goes on."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, result: Result) -> None: ...

    def stop(self) -> None: ...
