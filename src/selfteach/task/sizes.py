"""How many rows a finite task has on each side of its split."""

from __future__ import annotations

from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.task.around import Around
from selfteach.task.example import Task
from selfteach.task.files import FileTask
from selfteach.task.one import OneQuestion
from selfteach.task.split import fingerprint
from selfteach.wording import counted

LEAST = 8
"""Different problems that a finite task must have to be trained and measured on."""


@dataclass(frozen=True)
class Sizes:
    """``rows`` to train on, ``problems`` of which are different, and ``held_out`` problems."""

    rows: int
    problems: int
    held_out: int

    def __str__(self) -> str:
        repeated = self.rows - self.problems
        again = f" ({repeated} of them repeat a problem)" if repeated else ""
        return f"{self.rows + self.held_out:,} rows: {self.rows:,} to train on{again}, {self.held_out:,} held out"


def sizes_of(task: Task) -> Sizes | None:
    """Of rows from a file, the hub or memory; None of a task without end, of one question, and of a user's own."""
    while isinstance(task, Around) and not isinstance(task, OneQuestion):
        task = task.task
    if not isinstance(task, FileTask):
        return None
    problems = len({fingerprint(row.problem) for row in task.rows})
    return Sizes(len(task.rows), problems, len(task.held_out_rows))


def require_enough(task: Task) -> Sizes | None:
    """``sizes_of``. UserError, one line, where there are fewer than ``LEAST`` different problems."""
    found = sizes_of(task)
    count = LEAST if found is None else found.problems + found.held_out
    if count < LEAST:
        raise UserError(
            f"{task.name}: {counted(count, 'different problem')} {'is' if count == 1 else 'are'} too few to train "
            f"and be measured on: give {LEAST} at least (or --only N, to train on one question alone)"
        )
    return found
