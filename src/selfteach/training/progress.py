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

    def working(self, what: str, share: float) -> None:
        """``share``, 0 to 1, of a long piece of work is done; it may jump ahead."""

    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def start(self, steps: int, step: int, headline: str) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def evaluated(self, step: int, row: Mapping[str, Any]) -> None: ...

    def working(self, what: str, share: float) -> None: ...

    def stop(self) -> None: ...
