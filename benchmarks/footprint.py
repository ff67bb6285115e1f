"""Peak memory of sampling and scoring against the estimate of ``selfteach.policy.room``.

``python benchmarks/footprint.py MODEL``: resident memory beyond the weights, in MB, a process for each measurement.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import torch

from selfteach.policy.draws import Sampling
from selfteach.policy.economy import PLAIN
from selfteach.policy.loading import load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.scorer import LocalScorer

CASES = (
    ("sample", 8, 200, 32),
    ("sample", 32, 64, 40),
    ("read", 4, 100, 400),
    ("train", 2, 100, 156),
    ("train", 1, 100, 900),
)
"""What, rows, tokens of a prompt, tokens of an answer."""


def measure(what: str, rows: int, prompt: int, answer: int, model: str) -> None:
    policy = load_policy(model)
    for one in policy.model.parameters():
        one.sum()  # weights are mapped from their file: have them in memory before anything is counted
    this, peak = psutil.Process(), [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], this.memory_info().rss)
            time.sleep(0.005)

    before, needs = this.memory_info().rss, policy.room.needs
    threading.Thread(target=watch, daemon=True).start()
    gradients = 0
    if what == "sample":
        prompts = [[5 + i % 7 for i in range(prompt)] for _ in range(rows)]
        LocalSampler(policy).sample(prompts, Sampling(answer), batch_size=rows)
        estimate = rows * (prompt * (needs.cached + needs.read) + answer * needs.cached + needs.drawn)
    else:
        with torch.set_grad_enabled(what == "train"):
            states = LocalScorer(economy=PLAIN).states(policy, [[5] * prompt] * rows, [[6] * answer] * rows)
            if what == "train":
                states.sum().backward()
                gradients = sum(one.nbytes for one in policy.trainable().values())
        estimate = rows * (prompt + answer) * (needs.trained if what == "train" else needs.read)
    # Activations go as gradients come: of the two the larger is what counts beside the estimate.
    beyond = peak[0] - before
    print(
        f"{what:>6} {rows:>3} rows of {prompt} + {answer} tokens: peak {beyond / 1e6:7.0f} MB "
        f"(of which gradients at its end {gradients / 1e6:.0f}), estimated {estimate / 1e6:7.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) == 2:
        for case in CASES:
            subprocess.run([sys.executable, __file__, *map(str, case), sys.argv[1]], check=True)
    else:
        measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
