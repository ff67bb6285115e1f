"""How rows are laid out so that few tokens go through a model: what they share once, the rest with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from selfteach.policy.loading import bare
from selfteach.policy.passes import Device, Laid, Packed, Padded, Row, Shared
from selfteach.policy.prefix import packs, shares

PASS, PASS_ON_CPU = 2048, 128
"""Tokens that take as long as one more pass does for being one: on a CPU 100 of a model of three small layers, 30 of
one of 135M weights; on an accelerator by estimate, not measured."""
SAVES = 0.9
"""Contexts are computed by themselves where that leaves at most this share of the tokens (passes counted as tokens)."""


@dataclass(frozen=True)
class Economy:
    """``share``: contexts that several rows have in common are computed once; ``pack``: the others stand in one row
    without padding, else sorted by length in as many passes as pay off at ``fixed`` tokens each."""

    share: bool
    pack: bool
    fixed: int

    def laid(self, rows: Sequence[Row], pad_id: int, device: Device = None) -> list[tuple[list[int], Laid]]:
        """Each layout with the rows that it holds, in its order; every row is in one."""
        plan = self.plan(rows)
        made: list[tuple[list[int], Laid]] = []
        for held in plan.alone:
            layout = Packed if self.pack else Padded
            made.append((held, layout.of([rows[i] for i in held], pad_id, device)))
        for group in plan.shared:
            place = {i: n for n, i in enumerate(group.rows)}
            readings = [[place[i] for i in one] for one in group.readings]
            made.append((group.rows, Shared.of([rows[i] for i in group.rows], readings, pad_id, device)))
        return made

    def plan(self, rows: Sequence[Row]) -> Plan:
        plain = Plan(self.alone(rows, range(len(rows))), [])
        if not self.share:
            return plain
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(tuple(row.context), []).append(i)
        several = [group for group in groups.values() if len(group) > 1]
        single = [group[0] for group in groups.values() if len(group) == 1]
        if not several:
            return plain
        shared = Plan(self.alone(rows, single), self.together(rows, several))
        return shared if self.cost(rows, shared) <= SAVES * self.cost(rows, plain) else plain

    def alone(self, rows: Sequence[Row], some: Sequence[int]) -> list[list[int]]:
        if self.pack:
            return [list(some)] if some else []
        return cut(some, [rows[i].length for i in some], self.fixed)

    def together(self, rows: Sequence[Row], groups: Sequence[list[int]]) -> list[Group]:
        made = []
        for few in cut(range(len(groups)), [len(rows[group[0]].context) for group in groups], self.fixed):
            held = sorted(i for n in few for i in groups[n])
            reading = [i for i in held if rows[i].response]
            made.append(
                Group(held, len(few), cut(reading, [len(rows[i].response) for i in reading], self.fixed))
            )
        return made

    def cost(self, rows: Sequence[Row], plan: Plan) -> int:
        """Tokens that the plan pushes, and ``fixed`` for each pass."""
        passes = len(plan.alone) + sum(1 + len(one.readings) for one in plan.shared)
        return self.tokens(rows, plan) + passes * self.fixed

    def tokens(self, rows: Sequence[Row], plan: Plan) -> int:
        """Tokens that go through the model, padding included."""
        lengths = [[rows[i].length for i in one] for one in plan.alone]
        found = sum(sum(one) if self.pack else len(one) * max(one) for one in lengths)
        for group in plan.shared:
            found += group.contexts * max(len(rows[i].context) for i in group.rows)
            found += sum(len(one) * max(len(rows[i].response) for i in one) for one in group.readings)
        return found


@dataclass(frozen=True)
class Group:
    """Rows of so many contexts that go through the model together; ``readings``: the rows of each pass behind them."""

    rows: list[int]
    contexts: int
    readings: list[list[int]]


@dataclass(frozen=True)
class Plan:
    """``alone``: the rows of each pass over whole rows; ``shared``: those that have contexts in common."""

    alone: list[list[int]]
    shared: list[Group]


PLAIN = Economy(share=False, pack=False, fixed=2**40)
"""All rows in one padded pass."""


def economy_of(model: nn.Module) -> Economy:
    """What a model allows (``shares``, ``packs``) where it is."""
    return Economy(shares(model), packs(model), PASS_ON_CPU if bare(model).device.type == "cpu" else PASS)


def cut(rows: Sequence[int], lengths: Sequence[int], fixed: int) -> list[list[int]]:
    """The rows in passes of like lengths, such that the tokens pushed (each row as long as its pass's longest) and
    ``fixed`` tokens for each pass are fewest together. Within a pass rows keep their order."""
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    width = np.array([lengths[i] for i in order], dtype=np.int64)
    best = np.zeros(len(order) + 1, dtype=np.int64)
    begins = [0]
    for end in range(1, len(order) + 1):
        costs = best[:end] + np.arange(end, 0, -1) * width[end - 1] + fixed
        begins.append(int(costs.argmin()))
        best[end] = costs[begins[end]]
    passes, end = [], len(order)
    while end:
        passes.append([rows[i] for i in sorted(order[begins[end] : end])])
        end = begins[end]
    return passes[::-1]
