"""What it costs to play an environment in a worker process (--environment-timeout): docs/environments.md.

    python benchmarks/bench_isolated.py

A step of world "doors" that is no legal action (its rules take microseconds), in this process and in a worker; and the
first call of a task, which starts its worker.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from selfteach.task.example import Example, Message
from selfteach.task.options import TaskOptions
from selfteach.task.rows import make_task

STEPS = 500
ILLEGAL = Message(role="assistant", content="?")


def seconds(environment: Any, example: Example) -> tuple[float, float]:
    """(Of reset, the first call; of a step in the median.)"""
    began = time.perf_counter()
    environment.reset(example)
    first = time.perf_counter() - began
    each = []
    for _ in range(STEPS):
        began = time.perf_counter()
        environment.step(ILLEGAL)
        each.append(time.perf_counter() - began)
    environment.close() if hasattr(environment, "close") else None
    return first, statistics.median(each)


def main() -> None:
    for name, options in (
        ("this process", TaskOptions()),
        ("a worker process", TaskOptions(environment_timeout=60.0, environment_workers=1)),
    ):
        task: Any = make_task("doors", options=options)
        first, step = seconds(task.environment(), task.train(0))
        print(f"{name}: first reset {first:.2f} s, a step {1000 * step:.3f} ms (median of {STEPS})")


if __name__ == "__main__":
    main()
