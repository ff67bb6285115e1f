"""TextWorld's games as they are needed: made one at a time, each once, and kept in the user's cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import read_json, said_by
from selfteach.task import textworld_worker
from selfteach.task.cached import cache_folder
from selfteach.task.split import is_held_out
from selfteach.task.textworld_worker import GAME, OPENING
from selfteach.task.timed import TimedWorker

HELD_OUT = 0.25
"""Share of all objectives that is held out: a hash of its words says on which side an objective is."""
MAKE_SECONDS = 120.0
"""A game that takes longer is none (a map of thirty rooms took 20 s)."""
TRIES = 200
"""Seeds that are tried for one game: those of the other side, and those of which the library makes none."""


@dataclass(frozen=True)
class Opening:
    """How a game begins: its ``objective``, what the game says (``feedback``, as the library gives it), the
    ``commands`` that are admissible, and the ``expert``'s, which were seen to win."""

    seed: int
    objective: str
    feedback: str
    commands: list[str]
    expert: list[str]


@dataclass(frozen=True)
class Games:
    """The games of some settings; ``shape``: rooms, objects, quest and quests."""

    shape: dict[str, int]

    def __post_init__(self) -> None:
        require_textworld()

    @property
    def spec(self) -> str:
        """The settings as a name: rooms1-objects4-quest2-quests1."""
        return "-".join(f"{name}{value}" for name, value in self.shape.items())

    @property
    def folder(self) -> Path:
        return cache_folder() / "textworld" / version("textworld") / self.spec

    def path(self, seed: int) -> Path:
        """The compiled game of a seed, which is made if it is not there."""
        if not (self.folder / str(seed) / OPENING).is_file():
            self._asked(textworld_worker.build, seed, str(self.folder / str(seed)))
        return self.folder / str(seed) / GAME

    def opening(self, seed: int) -> Opening | None:
        """How the game of a seed begins; None if the library's own policy does not win it."""
        place = self.path(seed).parent / OPENING
        found = read_json(place, f"the game in {place.parent}", "remove that folder: it is made anew")
        try:
            won = found.pop("won")
            return Opening(seed=seed, **found) if won else None
        except (TypeError, KeyError, AttributeError):
            raise UserError(f"{place} is damaged; remove its folder: it is made anew") from None

    def drawn(self, stream: str, held_out: bool) -> Opening:
        """The first game of a stream of seeds that is on the wanted side of the split. UserError if there is none."""
        complaint = "none has an objective of this side"
        for seed in seeds(stream):
            told = self._objective(seed)
            if "complaint" in told:
                complaint = told["complaint"]
            elif is_held_out(told["objective"], HELD_OUT) == held_out and (found := self.opening(seed)):
                return found
        raise UserError(
            f"TextWorld makes no game of {self.spec} from {TRIES} seeds ({complaint}): choose other settings"
        )

    def _objective(self, seed: int) -> dict[str, str]:
        """The objective of a seed's game, or the complaint: drawn once, since that takes a third of a second."""
        place = self.folder / f"{seed}.json"
        if not place.is_file():
            told = self._asked(textworld_worker.objective, seed)
            self._write(place, json.dumps(told))
        found = read_json(place, f"the note {place}", "remove it: it is made anew")
        if not isinstance(found, dict) or not {"objective", "complaint"} & set(found):
            raise UserError(f"{place} is damaged; remove it: it is made anew")
        return found

    def _asked(self, function: Any, *arguments: Any) -> Any:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be made ({said_by(error)}): set XDG_CACHE_HOME") from error
        outcome = _worker.call(function, self.shape, *arguments, seconds=MAKE_SECONDS)
        if outcome.status != "done":
            raise UserError(f"TextWorld makes no game of {self.spec} ({outcome.reason})")
        return outcome.value

    def _write(self, place: Path, text: str) -> None:
        """Whole or not at all: other processes read it."""
        with NamedTemporaryFile(
            "w", dir=self.folder, prefix=".note-", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.replace(file.name, place)


def seeds(stream: str) -> Iterator[int]:
    """The seeds of TextWorld that a stream tries in turn, each below 2^32."""
    for attempt in range(TRIES):
        yield int.from_bytes(blake2b(f"{stream}/{attempt}".encode(), digest_size=4).digest(), "big")


def require_textworld() -> None:
    """UserError where the library is missing."""
    if find_spec("textworld") is None:
        raise UserError(
            "the task textworld needs the package textworld, which is not installed: "
            "pip install 'selfteach[textworld]' (a C compiler builds its interpreter)"
        )


_worker = TimedWorker(textworld_worker.warm_up)
