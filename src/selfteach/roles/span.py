"""Which part of a trajectory a role scores."""

from __future__ import annotations

from dataclasses import dataclass

from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Whole:
    """All of it."""

    def begin(self, trajectory: Trajectory) -> int | None:
        """The first token that is scored; the role's view stands before it, all later tokens follow as they are.

        None: there is nothing of the kind, and the role has no say about this trajectory.
        """
        return 0


@dataclass(frozen=True)
class FromTurn:
    """From turn ``turn`` on, counted from 0."""

    turn: int

    def begin(self, trajectory: Trajectory) -> int | None:
        return next((t for t, turn in enumerate(trajectory.turn) if turn >= self.turn), None)


@dataclass(frozen=True)
class FromMark:
    """From the first token with the mark ``mark`` on."""

    mark: str

    def begin(self, trajectory: Trajectory) -> int | None:
        return next((t for t, marked in enumerate(trajectory.marks.get(self.mark, ())) if marked), None)


Span = Whole | FromTurn | FromMark
