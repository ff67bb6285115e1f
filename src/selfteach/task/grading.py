"""Grade many answers: one after the other, or side by side where a task's grading runs in processes of its own."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from selfteach.task.example import Example, Grade, Task


def grades(task: Task, answers: Iterable[tuple[Example, str]]) -> list[Grade]:
    """The task's grades of these answers to their examples, in their order; raises what grading one raises."""
    listed = list(answers)
    threads = min(int(getattr(task, "grading_threads", 1)), len(listed))
    if threads < 2:
        return [task.grade(example, text) for example, text in listed]
    with ThreadPoolExecutor(threads, thread_name_prefix="grading") as pool:
        return list(pool.map(lambda one: task.grade(*one), listed))
