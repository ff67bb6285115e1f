"""``python peaks.py MODEL WORDS…``: a run of two steps in a process of its own, its peak and what was predicted."""

from __future__ import annotations

import json
import sys

import psutil

from runs import TextRun
from selfteach.cli.train import configured
from selfteach.training.memory import peak_memory
from selfteach.training.text.preflight import examined
from selfteach.training.text.preflight.memory import predicted
from selfteach.training.text.preflight.probing import first_prompts

STEPS = 2
"""The optimizer has its state from the end of the first one."""


def main(words: list[str]) -> None:
    run = TextRun(configured(words)[0])
    failed = [check for check in examined(run.learner) if not check.ok]
    assert not failed, failed
    expected = predicted(run.learner, first_prompts(run.learner))
    before = psutil.Process().memory_info().rss
    for _ in range(STEPS):
        run.stepped()
    print(
        json.dumps({"peak": peak_memory(), "predicted": expected.peak, "before": before, **expected.table()})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
