"""From rows to the columns that the objective and every recipe read, over all processes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from selfteach.objective.columns import Columns
from selfteach.task.trajectory import Trajectory
from selfteach.train.reduce import gather_rows
from selfteach.train.text.contexts import Context

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
        "turn": one.turn,
        "group": one.group,
        "reward": UNGRADED if one.grade is None else one.grade.reward,
        "origin": one.origin,
        "trajectory": (process, "row", i) if one.trajectory is None else (process, one.trajectory),
        "pair": None if one.pair is None else (process, one.pair),
        "available": {name: available(one, read, i) for name, read in contexts.items()}
        | {name: sampled_available(one, contexts.get(name), i, name) for name in sampled},
        "marks": one.marks,
        "numbers": one.numbers,
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
    width = max((len(row["ids"]) for row in facts), default=0)

    def padded(values: Sequence[Sequence[Any]], kind: torch.dtype, empty: Any) -> Tensor:
        column = torch.full((len(facts), width), empty, dtype=kind)
        for i, row in enumerate(values):
            column[i, : len(row)] = torch.tensor(row, dtype=kind)
        return column.to(device)

    def tokens(name: str, kind: torch.dtype, empty: Any) -> Tensor:
        return padded([row[name] for row in facts], kind, empty)

    def rows(name: str, kind: torch.dtype) -> Tensor:
        return torch.tensor([row[name] for row in facts], dtype=kind, device=device)

    def names(kind: str) -> list[str]:
        return list(dict.fromkeys(name for row in facts for name in row[kind]))

    def number(name: str) -> Tensor:
        values = [row["numbers"].get(name, math.nan) for row in facts]
        if any(isinstance(value, list) for value in values):
            lengths = [len(row["ids"]) for row in facts]
            by_token = [v if isinstance(v, list) else [v] * n for v, n in zip(values, lengths, strict=True)]
            return padded(by_token, dtype, math.nan)
        return torch.tensor(values, dtype=dtype, device=device)

    def seen(name: str) -> Tensor:
        values = [row["available"].get(name, False) for row in facts]
        if not any(isinstance(value, list) for value in values):
            return torch.tensor(values, dtype=torch.bool, device=device)
        lengths = [len(row["ids"]) for row in facts]
        by_token = [v if isinstance(v, list) else [v] * n for v, n in zip(values, lengths, strict=True)]
        return padded(by_token, torch.bool, False)

    number_of: dict[Hashable, int] = {}
    trajectory = [number_of.setdefault(row["trajectory"], len(number_of)) for row in facts]
    row_of = {row["trajectory"]: i for i, row in enumerate(facts)}
    return Columns(
        ids=tokens("ids", torch.long, 0),
        mask=tokens("mask", torch.bool, False),
        group=rows("group", torch.long),
        reward=rows("reward", dtype),
        behavior=tokens("behavior", dtype, math.nan),
        turn=tokens("turn", torch.long, 0),
        trajectory=torch.tensor(trajectory, dtype=torch.long, device=device),
        pair=torch.tensor([row_of.get(row["pair"], -1) for row in facts], dtype=torch.long, device=device),
        origin=tuple(row["origin"] for row in facts),
        available={name: seen(name) for name in names("available")},
        marks={
            name: padded([row["marks"].get(name, []) for row in facts], torch.bool, False)
            for name in names("marks")
        },
        log_probs={
            name: padded([row["log_probs"][name] for row in facts], dtype, math.nan)
            for name in names("log_probs")
        },
        numbers={name: number(name) for name in names("numbers")},
        special=special,
        precision=dtype,
    )
