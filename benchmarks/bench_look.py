"""What a look costs: the time of one (docs/report.md) against that of the steps between two looks.

python benchmarks/bench_look.py RECIPE [OPTIONS OF selfteach train]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time

from selfteach.cli.progress import Silent

from selfteach.cli.train import configured
from selfteach.training.launch import settings_of
from selfteach.training.learner import Numbers, Update
from selfteach.training.rundir import RunFolder
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.update import TextBatch
from selfteach.training.trainer import Trainer

STEPS, LOOKS = 20, 5


class Kept(Trainer):
    """A Trainer that keeps its last batch, and looks when it is told to."""

    batch: TextBatch

    def update(self, update: Update, batch: TextBatch) -> tuple[Numbers, Numbers]:
        self.batch = batch
        return super().update(update, batch)

    def look(self) -> None:
        self.write_samples(self.batch, "train")


def seconds(work: Callable[[], None], times: int) -> float:
    """Median CPU seconds of ``times`` calls."""
    spent = []
    for _ in range(times):
        began = process_time()
        work()
        spent.append(process_time() - began)
    return median(spent)


def main(words: list[str]) -> None:
    config, _ = configured(words)
    with TemporaryDirectory() as out, RunFolder(Path(out)) as folder:
        # The first step is followed by a look, the others are not: the median leaves it out.
        settings = replace(settings_of(config), samples_every=0)
        run = Kept(TextLearner(config, Silent()), folder, Silent(), settings)
        step, look = seconds(run.step, STEPS), seconds(run.look, LOOKS)
    every = config.bookkeeping.samples_every
    share = 100 * look / (every * step)
    print(f"{' '.join(words)}: a step {step:.3f} s, a look {look:.3f} s; one in {every} steps: {share:.1f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
