"""Who writes the tokens that a step scores. Most methods: the student. Some: data, a teacher, or both in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfteach.recipes.checks import require
from selfteach.roles.attempt import Revision
from selfteach.roles.view import View


@dataclass(frozen=True)
class Student:
    """The policy itself, with the weights it has when the rollout is made."""


@dataclass(frozen=True)
class Reference:
    """The data's own text in the private field ``field``."""

    field: str = "solution"


@dataclass(frozen=True)
class ByTeacher:
    """The teacher of this name answers under its own view; ``verified`` keeps right answers only."""

    teacher: str = "teacher"
    verified: bool = False


@dataclass(frozen=True)
class Mixed:
    """Token by token, with probability ``share`` the student's initial self, else ``teacher``, on one growing text.

    Card 11. The likeliest token (``temperature`` 0) or a draw from the ``top_k`` likeliest at that temperature. An
    answer that does not verify is written anew, up to ``attempts`` times, and then dropped.
    """

    teacher: str = "teacher"
    share: float = 0.3
    temperature: float = 0.0
    top_k: int = 64
    attempts: int = 10

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"share must lie in [0, 1], got {self.share}")
        require(self.attempts >= 1, f"attempts must be at least 1, got {self.attempts}")
        require(self.temperature >= 0 and self.top_k >= 0, "temperature and top_k must be 0 or more")


@dataclass(frozen=True)
class Revised:
    """The student drafts, is told whether the draft was right, and revises ``revisions`` times (card 10).

    Each verified revision gives a row: draft + phrase + revision, with the mark "revision" on the last part.
    """

    view: View = field(default_factory=Revision)
    revisions: int = 3


Writer = Student | Reference | ByTeacher | Mixed | Revised
