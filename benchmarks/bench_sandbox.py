"""What a sandbox costs: a program's start, tests of a program, and HumanEval's own solutions side by side.

pip install 'selfteach[code]' && python benchmarks/bench_sandbox.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from selfteach.sandbox.run import check, run
from selfteach.task.grading import grades
from selfteach.task.opening import open_task

REPETITIONS = 20
TESTS = {"source": "assert add(1, 2) == 3"}
ADD = "def add(a, b):\n    return a + b\n"


def seconds(what: Callable[[], object]) -> str:
    """Median and range of several times."""
    took = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        what()
        took.append(time.perf_counter() - began)
    return f"{statistics.median(took):.3f} s ({min(took):.3f}-{max(took):.3f})"


def main() -> None:
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {REPETITIONS} repetitions")
    print(
        "python -c pass, no sandbox  ",
        seconds(lambda: subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)),
    )
    print("run('pass')                 ", seconds(lambda: run("pass")))
    print("check(add, one assertion)   ", seconds(lambda: check(ADD, TESTS)))
    task = open_task("human-eval")
    examples = [task.train(i) for i in range(len(task.rows))]
    began = time.perf_counter()
    found = grades(task, [(one, one.private["solution"]) for one in examples])
    took = time.perf_counter() - began
    print(f"HumanEval: {sum(one.correct for one in found)} of {len(found)} solutions right in {took:.1f} s")


if __name__ == "__main__":
    main()
