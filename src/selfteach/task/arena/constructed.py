"""A puzzle whose problems are made from their answers, by a model too (``selfteach.task.self_play``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.puzzle import Puzzle
from selfteach.task.example import Example, Message


@dataclass(frozen=True)
class Constructed(Puzzle):
    """``hops``: how many steps may lie between answer and question. ``asks`` words the request for a problem of so
    many; ``constructed`` gives the problem that an examiner's text makes, None where its form or path is wrong."""

    hops: Sequence[int] = field(kw_only=True)
    asks: Callable[[int], str] = field(kw_only=True)
    constructed: Callable[[str, int], str | None] = field(kw_only=True)

    def examiner(self, hops: int) -> Sequence[Message]:
        """The conversation that asks for a problem of so many hops."""
        return (Message(role="user", content=self.asks(hops)),)

    def posed(self, text: str, hops: int) -> Example | None:
        """The problem in an examiner's text; None of those that are kept for evaluation, too."""
        problem = self.constructed(text.strip(), hops)
        return None if problem is None or is_held_out(problem) else self.example(problem)
