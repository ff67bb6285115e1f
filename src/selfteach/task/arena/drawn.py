"""Where examples come from in a world whose problems are drawn: the split, the order, what a view shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from random import Random

from selfteach.errors import UserError
from selfteach.task.example import Example

HELD_OUT_ONE_IN = 16
REPEATED = 10_000
"""So many problems in a row that were drawn before: there are no others."""


def is_held_out(problem: str) -> bool:
    """Whether a problem is kept for evaluation: one in sixteen, by a hash of its text."""
    return sha256(problem.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def show(wording: Mapping[str, str], example: Example, view: str, told: Mapping[str, str]) -> str:
    """What ``view`` makes of an example: its template filled with the problem, private fields and what is ``told``."""
    template = "{problem}" if view == "plain" else wording[view]
    return template.format_map({"problem": example.problem, **example.private, **told})


class Drawn:
    """What all such worlds do alike; a subclass has these fields, and says what the ``example`` of a problem is."""

    name: str
    pose: Callable[[Random], str]
    wording: Mapping[str, str]
    seed: int

    def example(self, problem: str) -> Example:
        raise NotImplementedError

    def question(self, example: Example, view: str, **told: str) -> str:
        """The user message of an example: bare (view ``plain``), or with what a taught view reveals.

        ``told`` holds what the view shows beyond the private fields, such as the feedback on an attempt.
        """
        return show(self.wording, example, view, told)

    def train(self, index: int) -> Example:
        rng = Random(f"{self.name} train {self.seed} {index}")
        return self.example(self.draw(rng))

    def held_out(self, count: int) -> list[Example]:
        rng = Random(f"{self.name} held out")
        problems: dict[str, None] = {}
        known = 0
        while len(problems) < count:
            before = len(problems)
            problems[self.draw(rng, held_out=True)] = None
            known = known + 1 if len(problems) == before else 0
            if known > REPEATED:
                raise UserError(
                    f"world {self.name!r} holds out {before} problems, {count} were asked for: ask for fewer"
                )
        return [self.example(problem) for problem in problems]

    def draw(self, rng: Random, held_out: bool = False) -> str:
        """A problem for training and pretraining, or one of those held out from both."""
        while is_held_out(problem := self.pose(rng)) != held_out:
            pass
        return problem
