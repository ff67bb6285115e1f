"""What is won in the tasks of τ²-bench by their reference actions, and by doing nothing, and how long a reset takes.

python benchmarks/tau2_floor.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from selfteach.task.environment import turns_of
from selfteach.task.example import Example, Message
from selfteach.task.tau2 import DOMAINS, Tau2Task


def earned(task: Tau2Task, example: Example, turns: Sequence[str]) -> float:
    environment = task.environment()
    environment.reset(example)
    return sum(environment.step(Message(role="assistant", content=turn)).reward for turn in turns)


def reset_seconds(task: Tau2Task, examples: Sequence[Example]) -> float:
    """The median over episodes: each has a copy of the database."""
    found = []
    for example in examples:
        began = time.perf_counter()
        task.environment().reset(example)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    for domain in DOMAINS:
        task = Tau2Task(domain)
        examples = [task.example(one) for split in ("train", "test") for one in task.of_split(split)]
        won = sum(earned(task, one, turns_of(one, "solution")) for one in examples)
        idle = sum(earned(task, one, ["Done."]) for one in examples)
        reset = reset_seconds(task, examples[:10])
        print(
            f"{task.name}: {len(examples)} tasks, reference actions win {won:g}, doing nothing wins {idle:g}; "
            f"a reset takes {reset:.2f} s"
        )


if __name__ == "__main__":
    main()
