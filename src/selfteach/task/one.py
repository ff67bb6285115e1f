"""One question, asked again and again: the task of test-time training (SDPO)."""

from __future__ import annotations

from selfteach.errors import UserError
from selfteach.task.around import Around
from selfteach.task.example import Example, Task


class OneQuestion(Around):
    """The ``number``-th held-out example of a task (from 0) as all there is to train on and to be measured on.

    UserError if the task holds out fewer.
    """

    def __init__(self, task: Task, number: int) -> None:
        super().__init__(task)
        held_out = task.held_out(number + 1)
        if len(held_out) <= number:
            raise UserError(f"only is {number}, but task {task.name} holds out {len(held_out)} examples")
        self.example = held_out[number]

    def train(self, index: int) -> Example:
        return self.example

    def held_out(self, count: int) -> list[Example]:
        return [self.example]
