"""A task around another one, to change one thing about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfteach.task.example import Example, Grade, Task


class Around:
    """Does what ``task`` does; a subclass says what it does otherwise. What else ``task`` has can be read off it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        if hasattr(
            task, "annotate"
        ):  # protocols that are checked at runtime look at what stands here, not further
            self.annotate = task.annotate

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
        return self.task.train(index)

    def held_out(self, count: int) -> list[Example]:
        return self.task.held_out(count)

    def grade(self, example: Example, answer: str) -> Grade:
        return self.task.grade(example, answer)

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not here. A copy that is being made has no task yet, and must not ask for it without end.
        if name == "task" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.task, name)
