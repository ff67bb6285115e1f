"""What work costs on this machine, by estimate: the same from run to run, so nothing is timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from selfteach.policy.room import memory_limit
from selfteach.training.config import TrainConfig
from selfteach.training.reduce import on_cpu


@dataclass(frozen=True)
class Machine:
    """``generating`` and ``passing``: floating-point operations a second while tokens are drawn one by one, and while
    whole rows are scored; ``token``: seconds that a token takes at least, however few rows there are. ``step``,
    ``evaluation``, ``run``: seconds that these may take here. ``memory``: bytes."""

    name: str
    memory: int
    generating: float
    passing: float
    token: float
    step: float
    evaluation: float
    run: float


def machine_of(config: TrainConfig) -> Machine:
    """Where the run computes. On a CPU the rates are those measured with SmolLM2-135M in float32 on 2 cores
    (docs/first-hour.md), a core each; of accelerators they are a modest guess."""
    if on_cpu(config.loading.device):
        cores = torch.get_num_threads()
        memory = config.bookkeeping.memory or memory_limit()
        return Machine(
            f"{cores} CPU core{'s' if cores > 1 else ''}, {memory / 1e9:.0f} GB", memory,
            generating=8e9 * cores, passing=40e9 * cores, token=0.01, step=36, evaluation=20, run=3600,
        )  # fmt: skip
    memory = config.bookkeeping.memory or memory_limit("cuda")
    return Machine(
        f"{torch.cuda.get_device_name()}, {memory / 1e9:.0f} GB", memory,
        generating=5e12, passing=3e13, token=0.03, step=300, evaluation=300, run=86400,
    )  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What is to be done there: a model of so many ``weights``, prompts of ``prompt`` tokens, ``teachers`` that score
    beside the student; ``generates``: a step writes tokens of its own."""

    machine: Machine
    weights: int
    prompt: int
    teachers: int
    generates: bool

    def sampling(self, rows: float, tokens: int) -> float:
        """Seconds to write so many rows of so many tokens."""
        return tokens * max(self.machine.token, rows * 2 * self.weights / self.machine.generating)

    def step(self, rows: float, tokens: int) -> float:
        """Seconds to sample, to score by teachers and student, and to go back through the student."""
        passes = 2 * (1 + self.teachers) + 4
        scoring = rows * (self.prompt + tokens) * passes * self.weights / self.machine.passing
        return scoring + (self.sampling(rows, tokens) if self.generates else 0.0)

    def rows_of_a_step(self, tokens: int) -> int:
        """The most rows of so many tokens that a step has time for, a power of two or half as much again; 0 if not
        even one."""
        rows = 0
        while rows < 2**20 and self.step(max(1, 2 * rows), tokens) <= self.machine.step:
            rows = max(1, 2 * rows)
        more = rows + rows // 2
        return more if self.step(more, tokens) <= self.machine.step else rows

    def rows_written(self, tokens: int, seconds: float) -> int:
        """How many rows of so many tokens are written in so many seconds; 0 if not even one."""
        if self.sampling(1, tokens) > seconds:
            return 0
        return int(seconds / tokens * self.machine.generating / (2 * self.weights))
