"""What a look costs: the time of one (docs/report.md) against that of the steps between two looks.

python benchmarks/bench_look.py RECIPE [OPTIONS OF selfteach train]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

from selfteach.train.loop import look_closer
from selfteach.train.run import Run

from selfteach.cli.progress import Silent
from selfteach.cli.train import configured
from selfteach.train.rundir import RunFolder

STEPS, LOOKS = 20, 5


def seconds(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Median CPU seconds of ``times`` calls, and what the last one returned."""
    spent, result = [], None
    for _ in range(times):
        began = process_time()
        result = work()
        spent.append(process_time() - began)
    return median(spent), result


def main(words: list[str]) -> None:
    config, _ = configured(words)
    with TemporaryDirectory() as out, RunFolder(Path(out)) as folder:
        run = Run(config, folder, Silent())
        step, last = seconds(run.step, STEPS)
        look, _ = seconds(lambda: look_closer(run, last), LOOKS)
    every = config.bookkeeping.samples_every
    share = 100 * look / (every * step)
    print(f"{' '.join(words)}: a step {step:.3f} s, a look {look:.3f} s; one in {every} steps: {share:.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
