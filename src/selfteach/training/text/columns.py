"""From rows to the columns that the objective and every recipe read, over all processes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from jaxtyping import Int, Shaped
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import Columns
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import gather_rows
from selfteach.training.text.contexts import Context

UNGRADED = 0.0
"""The reward of a row that no verifier looked at."""


def gathered(
    rows: Sequence[Trajectory],
    contexts: Mapping[str, Context],
    sampled: Sequence[str],
    *,
    special: Mapping[str, int],
    dtype: torch.dtype,
    device: torch.device,
    alone: bool = False,
) -> tuple[Columns, int]:
    """(columns of all processes' rows, where this process's own rows begin); ``alone``: of this process's rows only.

    ``sampled``: roles that gave the rows log-probs (``Trajectory.log_probs``) and no distributions.
    """
    process = PartialState().process_index
    own = [facts_of(one, i, process, contexts, sampled) for i, one in enumerate(rows)]
    if alone:
        return columns_of(own, special, dtype, device), 0
    facts = gather_rows(own)
    first_row = sum(gather_rows([len(rows)])[:process])
    return columns_of(facts, special, dtype, device), first_row


def facts_of(
    one: Trajectory, i: int, process: int, contexts: Mapping[str, Context], sampled: Sequence[str]
) -> dict[str, Any]:
    """A row's small facts, as they travel between processes."""
    unknown = [math.nan] * len(one.ids)
    return {
        "ids": one.ids,
        "mask": one.mask,
        "behavior": one.behavior,
        "drawn": one.drawn_by(STUDENT),
        "turn": one.turn,
        "group": one.group,
        "reward": UNGRADED if one.grade is None else one.grade.reward,
        "origin": one.origin,
        "trajectory": (process, "row", i) if one.trajectory is None else (process, one.trajectory),
        "pair": None if one.pair is None else (process, one.pair),
        "available": {name: available(one, read, i) for name, read in contexts.items()}
        | {name: sampled_available(one, contexts.get(name), i, name) for name in sampled},
        "marks": one.marks,
        "numbers": {**({} if one.grade is None else one.grade.numbers), **one.numbers},
        "log_probs": {name: one.log_probs.get(name, unknown) for name in sampled},
    }


def available(one: Trajectory, read: Context, row: int) -> bool | list[bool]:
    """Whether a role scores a row; token by token where its span is a part of it."""
    begin = read.begin(row)
    if read.prompts[row] is None or not begin:
        return read.prompts[row] is not None
    return [t >= begin for t in range(len(one.ids))]


def sampled_available(one: Trajectory, read: Context | None, row: int, role: str) -> bool | list[bool]:
    """The same of a role that hands over log-probs: where the row has some."""
    if role not in one.log_probs or read is None or read.prompts[row] is None:
        return role in one.log_probs
    return available(one, read, row)


def columns_of(
    facts: Sequence[Mapping[str, Any]], special: Mapping[str, int], dtype: torch.dtype, device: torch.device
) -> Columns:
    """Right-padded columns of all rows. A mark that a row lacks is False there, a number NaN."""
    table = Table(facts, dtype, device)
    return Columns(
        ids=table.tokens("ids", torch.long, 0),
        mask=table.tokens("mask", torch.bool, False),
        group=table.rows("group", torch.long),
        reward=table.rows("reward", dtype),
        behavior=table.tokens("behavior", dtype, math.nan),
        drawn=table.tokens("drawn", dtype, math.nan),
        turn=table.tokens("turn", torch.long, 0),
        trajectory=table.trajectory(),
        pair=table.pair(),
        origin=tuple(row["origin"] for row in facts),
        available={
            name: table.named("available", name, torch.bool, False) for name in table.names("available")
        },
        marks={name: table.named_tokens("marks", name, torch.bool, False) for name in table.names("marks")},
        log_probs={
            name: table.named_tokens("log_probs", name, dtype, math.nan) for name in table.names("log_probs")
        },
        numbers={name: table.named("numbers", name, dtype, math.nan) for name in table.names("numbers")},
        special=special,
        precision=dtype,
        turns=max((1 + max(row["turn"], default=0) for row in facts), default=0),
        split=len({row["trajectory"] for row in facts}) < len(facts),
    )


@dataclass(frozen=True)
class Table:
    """All rows' facts, read a column at a time: [N] of rows, [N, T] right-padded of tokens."""

    facts: Sequence[Mapping[str, Any]]
    dtype: torch.dtype
    device: torch.device

    def padded(
        self, values: Sequence[Sequence[Any]], kind: torch.dtype, empty: float
    ) -> Shaped[Tensor, "N T"]:
        width = max((len(row["ids"]) for row in self.facts), default=0)
        column = torch.full((len(self.facts), width), empty, dtype=kind)
        for i, row in enumerate(values):
            column[i, : len(row)] = torch.tensor(row, dtype=kind)
        return column.to(self.device)

    def tokens(self, fact: str, kind: torch.dtype, empty: float) -> Shaped[Tensor, "N T"]:
        return self.padded([row[fact] for row in self.facts], kind, empty)

    def rows(self, fact: str, kind: torch.dtype) -> Shaped[Tensor, "N"]:
        return torch.tensor([row[fact] for row in self.facts], dtype=kind, device=self.device)

    def names(self, fact: str) -> list[str]:
        """The names under which any row has one of these, in the order of the rows."""
        return list(dict.fromkeys(name for row in self.facts for name in row[fact]))

    def named_tokens(self, fact: str, name: str, kind: torch.dtype, empty: float) -> Shaped[Tensor, "N T"]:
        return self.padded([row[fact].get(name, []) for row in self.facts], kind, empty)

    def named(
        self, fact: str, name: str, kind: torch.dtype, empty: float
    ) -> Shaped[Tensor, "N"] | Shaped[Tensor, "N T"]:
        """[N], or [N, T] where any row says it token by token."""
        values = [row[fact].get(name, empty) for row in self.facts]
        if not any(isinstance(value, list) for value in values):
            return torch.tensor(values, dtype=kind, device=self.device)
        lengths = [len(row["ids"]) for row in self.facts]
        by_token = [v if isinstance(v, list) else [v] * n for v, n in zip(values, lengths, strict=True)]
        return self.padded(by_token, kind, empty)

    def trajectory(self) -> Int[Tensor, "N"]:
        """Which trajectory a row belongs to, counted from 0 in the order of the rows."""
        number_of: dict[Hashable, int] = {}
        numbers = [number_of.setdefault(row["trajectory"], len(number_of)) for row in self.facts]
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    def pair(self) -> Int[Tensor, "N"]:
        """The row that a row is paired with, -1 where there is none."""
        row_of = {row["trajectory"]: i for i, row in enumerate(self.facts)}
        for row in self.facts:
            if row["pair"] is not None and row["pair"] not in row_of:
                raise ValueError(
                    f"a trajectory is paired with number {row['pair'][1]}, which is not in the batch"
                )
        paired = [-1 if row["pair"] is None else row_of[row["pair"]] for row in self.facts]
        return torch.tensor(paired, dtype=torch.long, device=self.device)
