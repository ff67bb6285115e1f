"""Learners whose batch is shared out over processes: ``shared_learner.py OUT [--private] [--resume]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selfteach.recipes.kit import PerRecord
from selfteach.training.learner import Learner, Numbers, Stage, Trained, Update
from selfteach.training.reduce import gather_rows, mean_over_processes, processes, sum_over_processes
from selfteach.training.running import run_learner
from selfteach.training.text.private import private_gradient
from selfteach.training.trainer import Settings

ROWS = 7


class Shared(Learner):
    """Least squares on seven rows a batch: process r has rows r, r + world …, so the shares are unequal."""

    unit, headline, better = "rows", "distance", "lower"

    def __init__(self) -> None:
        self.stages = [Stage("fit", 5)]
        torch.manual_seed(processes()[0])  # each process begins elsewhere; the first one's weights must hold
        self.net = nn.ModuleDict({"all": nn.Linear(3, 1), "first": nn.Linear(3, 1), "none": nn.Linear(1, 1)})
        self.seen = 0

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        named = dict(self.net.named_parameters())
        return {"net": Trained(torch.optim.SGD(named.values(), 0.1), named, max_grad_norm=1.0)}

    def collect(self, step: int) -> Sequence[tuple[int, Tensor]]:
        rows = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(step))
        rank, world = processes()
        return [(i, rows[i]) for i in range(rank, ROWS, world)]

    def updates(self, batch: Sequence[tuple[int, Tensor]]) -> Iterator[Update]:
        yield Update(("net",), lambda: self.fit(batch))

    def fit(self, batch: Sequence[tuple[int, Tensor]]) -> Numbers:
        total = 0.0
        for i, row in batch:  # as many backward calls as there are rows: another number on each process
            loss = (self.net["all"](row) - row.sum()).square().sum() / ROWS
            if i == 0:
                loss = loss + self.net["first"](row).square().sum()
            loss.backward()
            total += loss.item()
        return sum_over_processes({"loss": total})

    def spent(self, batch: Sequence[tuple[int, Tensor]]) -> int:
        return len(batch)

    def metrics(self, batch: Sequence[tuple[int, Tensor]], done: Sequence[Numbers]) -> Mapping[str, Any]:
        rows = gather_rows(i for i, _ in batch)
        return {
            "mean": mean_over_processes({"x": [row[0].item() for _, row in batch]})["x"],
            "rows": sum(rows),
        }

    def evaluate(self, phase: str) -> Mapping[str, float]:
        return {"eval/headline": (self.net["all"].weight - 1).norm().item()}


class Private(Shared):
    """The same by clipped, noised gradients of single rows; the second of the five batches is empty."""

    def collect(self, step: int) -> Sequence[tuple[int, Tensor]]:
        return [] if step == 1 else super().collect(step)

    def fit(self, batch: Sequence[tuple[int, Tensor]]) -> Numbers:
        records = [partial(self.losses, row) for _, row in batch]
        rank, _ = processes()
        generator = torch.Generator().manual_seed(3) if rank == 0 else None
        named = dict(self.net["all"].named_parameters())
        return private_gradient(records, named, PerRecord(clip=0.5, noise=0.7, expected=ROWS), generator)

    def metrics(self, batch: Sequence[tuple[int, Tensor]], done: Sequence[Numbers]) -> Mapping[str, Any]:
        return {**done[0]}

    def losses(self, row: Tensor) -> Iterator[Tensor]:
        yield (self.net["all"](row) - row.sum()).square().sum()


if __name__ == "__main__":
    settings = Settings(device="cpu", checkpoint_every=2)
    learner = Private() if "--private" in sys.argv else Shared()
    run_learner(learner, sys.argv[1], settings, resume="--resume" in sys.argv)
