"""A teacher on a server: it hands over the likeliest tokens of whatever rows a run has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from selfteach.objective.listed import Listed
from selfteach.policy.chat_server import ChatServer
from selfteach.policy.logprob_server import listed_by
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.teachers.handed import Piece


@dataclass
class ServedTeacher:
    """``server``'s model in the place of the weights of ``roles`` (``Handed``), ``k`` tokens a position.

    What it said of a step's rows is kept until ``forget``: they are asked for once.
    """

    server: ChatServer
    roles: tuple[str, ...]
    k: int
    vocabulary: int
    kept: dict[bytes, Listed] = field(default_factory=dict)

    @property
    def stored(self) -> Sequence[Trajectory]:
        return ()

    def scores(self, role: str, pieces: Sequence[Piece]) -> list[Listed | str]:
        keys = [one.key(role) for one in pieces]
        asked = {key: one for key, one in zip(keys, pieces, strict=True) if key not in self.kept}
        found = listed_by(self.server, [prompt_of(one) for one in asked.values()], self.k, self.vocabulary)
        told = dict(zip(asked, found, strict=True))
        self.kept |= {key: one for key, one in told.items() if isinstance(one, Listed)}
        return [self.kept[key] if key in self.kept else told[key] for key in keys]

    def forget(self) -> None:
        self.kept.clear()

    def describe(self, role: str) -> str:
        return f"{self.k} of {self.vocabulary:,} tokens a position from {self.server.model!r} at {self.server.url}"


def prompt_of(one: Piece) -> tuple[list[int], list[int]]:
    """(all that the server reads, the places of the written tokens in it)."""
    begin = len(one.context)
    return [*one.context, *one.response], [begin + t for t, own in enumerate(one.written) if own]
