"""A user's own object as a task: what it lacks is filled in, what it gives is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from selfteach.errors import UserError
from selfteach.importing import in_one_line, users_call
from selfteach.task.around import Around
from selfteach.task.example import Example, Grade
from selfteach.task.judged import WANTED, judged
from selfteach.task.verdict import Verdict

METHODS = ("train", "held_out", "grade")


def is_task(found: object, graded: bool = True) -> bool:
    """Whether an object has a task's methods; ``grade`` is one that it may lack where somebody else grades,
    a reward function or its own environment."""
    wanted = METHODS if graded and not callable(getattr(found, "environment", None)) else METHODS[:2]
    return not isinstance(found, type) and all(callable(getattr(found, name, None)) for name in wanted)


class OwnTask(Around):
    """An object with ``train(index)``, ``held_out(count)`` and ``grade(example, answer)``, written by the user.

    Without ``name``, ``wording`` or ``verdicts`` it gets its class's name, none, and a count of right and wrong. Its
    ``grade`` may give all that a reward function may. UserError, one line, where one of the three raises or gives
    something else; at once if ``train(0)`` does.
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.counted: Counter[Verdict] = Counter()
        self.train(0)

    @property
    def name(self) -> str:
        return str(getattr(self.task, "name", type(self.task).__name__))

    @property
    def wording(self) -> Mapping[str, str]:
        found: Mapping[str, str] = getattr(self.task, "wording", {})
        return found

    @property
    def verdicts(self) -> Mapping[Any, int]:
        found: Mapping[Any, int] = getattr(self.task, "verdicts", self.counted)
        return found

    def train(self, index: int) -> Example:
        return self._example(self._call("train", index), f"train({index})")

    def held_out(self, count: int) -> list[Example]:
        place = f"held_out({count})"
        found = self._call("held_out", count)
        if not isinstance(found, list | tuple):
            raise UserError(f"task {self.name}: {place} gave {_kind(found)}: give a list of Examples")
        return [self._example(one, place) for one in found[:count]]

    def grade(self, example: Example, answer: str) -> Grade:
        said = self._call("grade", example, answer)
        try:
            verdict, grade = judged(said)
        except ValueError as error:
            raise UserError(
                f"task {self.name}: grade gave {error} for example {example.key}; {WANTED}"
            ) from None
        self.counted[verdict] += 1
        return grade

    def _call(self, method: str, *arguments: Any) -> Any:
        return users_call(f"task {self.name}: {method} failed", getattr(self.task, method), *arguments)

    def _example(self, found: Any, place: str) -> Example:
        if not isinstance(found, Example):
            raise UserError(
                f"task {self.name}: {place} gave {_kind(found)}: give a selfteach.task.example.Example"
            )
        return found


def _kind(found: object) -> str:
    return f"{type(found).__name__} {in_one_line(found)}"
