"""Who shows a run while it goes on: the interface; the command line has the bars and lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Who shows a run while it goes on. ``headline`` says what a row's ``eval/headline`` is."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int, headline: str) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int, headline: str) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None: ...

    def stop(self) -> None: ...
