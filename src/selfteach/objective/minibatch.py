"""Which rows of a batch an update sees: parts that never split what belongs together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from selfteach.objective.aggregate import numbered
from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import Columns


@dataclass(frozen=True)
class Minibatch:
    """One optimizer step on a batch: minibatch ``part`` (from 0) of ``parts`` in ``epoch`` (from 0). ``trains`` names
    the trained weights that move, ``roles`` those whose logits its terms train: known beforehand, their graphs are
    counted together, and what statistics read of them is not computed twice. Every epoch is split anew."""

    part: int = 0
    parts: int = 1
    epoch: int = 0
    trains: tuple[str, ...] = ("policy",)
    roles: tuple[str, ...] = (STUDENT,)

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must lie in [0, {self.parts}), got {self.part}")


def passes(
    epochs: int = 1,
    minibatches: int = 1,
    trains: tuple[str, ...] = ("policy",),
    roles: tuple[str, ...] = (STUDENT,),
) -> tuple[Minibatch, ...]:
    """``epochs`` passes over a batch in ``minibatches`` updates each, as in PPO."""
    return tuple(
        Minibatch(part, minibatches, epoch, trains, roles)
        for epoch in range(epochs)
        for part in range(minibatches)
    )


def rows_within(update: Minibatch, columns: Columns, seed: int = 0) -> Bool[Tensor, "N"]:
    """[N] bool: the rows of an update. Groups, pairs and trajectories stay whole; the parts of an epoch are disjoint,
    cover the batch, and differ in size by at most one such unit. A pure function of the seed and the epoch."""
    if update.parts == 1:
        return torch.ones(len(columns.ids), dtype=torch.bool, device=columns.ids.device)
    unit = units(columns)
    count = int(unit.max()) + 1 if len(unit) else 0
    # Drawn on the CPU, so that every process and device sees the same split.
    generator = torch.Generator().manual_seed(hash((seed, update.epoch)) % 2**63)
    place = torch.randperm(count, generator=generator).argsort().to(unit.device)
    return place[unit] % update.parts == update.part


def units(columns: Columns) -> Int[Tensor, "N"]:
    """[N] long: rows that share a group, a trajectory or a preference share a number, counted from 0."""
    unit = torch.arange(len(columns.ids), device=columns.ids.device)
    links = [one for one in (columns.group, columns.trajectory) if one is not None]
    while True:
        before = unit
        for link in links:
            unit = lowest(unit, numbered(link))
        if columns.pair is not None:
            paired = columns.pair >= 0
            one, other = paired.nonzero().squeeze(1), columns.pair[paired]
            both = torch.minimum(unit[one], unit[other])
            unit = unit.clone().scatter_reduce_(0, one, both, "amin").scatter_reduce_(0, other, both, "amin")
        if torch.equal(unit, before):
            return numbered(unit)


def lowest(unit: Int[Tensor, "N"], link: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """Each row's unit number replaced by the lowest among the rows that share its ``link``."""
    least = unit.new_full((int(link.max()) + 1 if len(link) else 0,), len(unit) + 1)
    return least.scatter_reduce(0, link, unit, "amin")[link]
