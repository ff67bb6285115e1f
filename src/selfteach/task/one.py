"""One question, asked again and again: the task of test-time training (card 28)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfteach.errors import UserError
from selfteach.task.example import Example, Grade, Task


class OneQuestion:
    """The ``number``-th held-out example of a task (from 0) as all there is to train on and to be measured on.

    UserError if the task holds out fewer.
    """

    def __init__(self, task: Task, number: int) -> None:
        held_out = task.held_out(number + 1)
        if len(held_out) <= number:
            raise UserError(f"only is {number}, but task {task.name} holds out {len(held_out)} examples")
        self.task, self.example = task, held_out[number]

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def wording(self) -> Mapping[str, str]:
        return self.task.wording

    @property
    def verdicts(self) -> Mapping[Any, int]:
        return self.task.verdicts

    def train(self, index: int) -> Example:
        return self.example

    def held_out(self, count: int) -> list[Example]:
        return [self.example]

    def grade(self, example: Example, answer: str) -> Grade:
        return self.task.grade(example, answer)
