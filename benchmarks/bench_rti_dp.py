"""Milliseconds an action of each sampler of a trained rti-dp run, one environment, on one thread of a CPU.

    selfteach train rti-dp --out runs/rti-dp
    python benchmarks/bench_rti_dp.py runs/rti-dp [--episodes 4] [--repeats 3]

A line a sampler: network calls an executed action, processor milliseconds an executed action over whole episodes
(median of the repetitions, after one that warms up, with their range), the longest wait for one action behind an
episode's first (which is always denoised whole, but for cold), and how much faster than closed-loop it is in both.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

from selfteach.cli.train import run_of
from selfteach.task.embodied.task import Array
from selfteach.training.embodied.rollout import held_out_seeds, play
from selfteach.training.embodied.rti_dp import ActionSampler, RTIDPLearner

SAMPLERS = ("closed-loop", "full", "warm-start", "noised", "cold")


class Timed:
    """A sampler whose actions are timed."""

    def __init__(self, act: ActionSampler) -> None:
        self.act, self.took = act, list[float]()

    def begin(self, mask: Array) -> None:
        self.act.begin(mask)

    def __call__(self, observations: Array) -> Array:
        began = time.process_time()
        action = self.act(observations)
        self.took.append(1e3 * (time.process_time() - began))
        return action


def once(learner: RTIDPLearner, name: str, episodes: int) -> tuple[float, float, float]:
    """(calls an action, milliseconds an action, the median of each episode's longest wait behind its first action)."""
    calls, took, longest = list[float](), list[float](), list[float]()
    for seed in held_out_seeds(episodes):
        act = Timed(learner.sampler(name))
        play(learner.task, learner.task.make(1), act, [seed])
        calls += [float(one) for one in act.act.calls]
        took += act.took
        longest.append(max(act.took[1:]))
    return statistics.mean(calls), statistics.mean(took), statistics.median(longest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = run_of(["--config", str(given.run), "--out", str(given.run / "unused")])
    learner = RTIDPLearner(config.recipe, config.settings)
    learner.policy.load_state_dict(load_file(given.run / "model" / "policy.safetensors"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
    print(f"{platform.machine()}, one thread, {versions}; {config.recipe.environment}")
    first: tuple[float, float] | None = None
    for name in SAMPLERS:
        made = [once(learner, name, given.episodes) for _ in range(given.repeats + 1)][1:]
        calls, each, waits = (list(column) for column in zip(*made, strict=True))
        mean, wait = statistics.median(each), statistics.median(waits)
        first = first or (mean, wait)
        print(
            f"{name:12} {calls[0]:6.2f} calls an action, {mean:7.2f} ms ({min(each):.2f} to {max(each):.2f}), "
            f"{first[0] / mean:5.1f} times closed-loop's speed; longest wait {wait:7.2f} ms ({first[1] / wait:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
