"""A world made of three pure functions, for tasks that are more than digits to work out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from selfteach.task.arena.drawn import Drawn
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict


@dataclass(frozen=True)
class Puzzle(Drawn):
    """One world of the arena, under a seed.

    ``pose`` draws a problem. ``tell`` gives its private fields, of which ``solution``, ``answer`` (what a right answer
    must claim) and ``worked`` (a right answer in the model's own style) are always there; UserError for what is no
    problem of the world. ``kind`` is an example's tag. ``judge`` grades an answer and names its verdict. The held-out
    examples are the same for every seed.
    """

    name: str
    pose: Callable[[Random], str]
    tell: Callable[[str], Mapping[str, str]]
    kind: Callable[[str], str]
    judge: Callable[[str, str], Grade]
    wording: Mapping[str, str]
    seed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)

    def example(self, problem: str) -> Example:
        """The example that asks ``problem``; raises ``UserError`` if this world has no such problem."""
        private = self.tell(problem)
        prompt = (Message(role="user", content=problem),)
        return Example(f"{self.name}:{problem}", prompt, private, self.kind(problem))

    def grade(self, example: Example, answer: str) -> Grade:
        """What ``judge`` says of the answer; counted by its verdict."""
        grade = self.judge(example.problem, answer)
        self.verdicts[Verdict(str(grade.verdict))] += 1
        return grade
