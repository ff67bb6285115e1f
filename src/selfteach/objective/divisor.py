"""What the sum over a term's tokens is divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int, Real, Shaped
from torch import Tensor

from selfteach.objective.aggregate import numbered
from selfteach.objective.columns import Columns

What = Literal["written", "selected", "one"]
Per = Literal["batch", "row", "turn", "trajectory"]
Reduction = Literal["tokens", "selected", "sequences", "rollouts", "sum"]


@dataclass(frozen=True)
class Divisor:
    """``what`` is counted ``per`` unit: each unit's sum is divided by its count, then the mean over units is taken.

    ``what``: the unit's tokens that the policy "written" and the term's roles saw, those that the term "selected", or
    "one" (the sum stays a sum). A unit counts in the mean if the term selects any of its tokens; "batch" is one unit.
    A "turn" is one turn of one row, a "trajectory" all rows of one number. ValueError for another word.
    """

    what: What
    per: Per

    def __post_init__(self) -> None:
        for name, known in (("what", get_args(What)), ("per", get_args(Per))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    def of(
        self, columns: Columns, written: Bool[Tensor, "N T"], chosen: Bool[Tensor, "N T"]
    ) -> Real[Tensor, ""] | Real[Tensor, "N T"]:
        """What each position's summand is divided by, 0-dim or [N, T], from the [N, T] bool tokens that count as
        written and those that are selected. Never below 1. ValueError if the batch lacks the column of the units."""
        counted = {"written": written, "selected": chosen, "one": None}[self.what]
        if self.per == "batch":
            count = torch.ones((), device=chosen.device) if counted is None else counted.sum()
            return count.clamp(min=1)
        unit = units(columns, self.per)
        number = int(unit.max()) + 1 if unit.numel() else 0

        def per_unit(tokens: Tensor) -> Tensor:
            return torch.bincount(unit[tokens], minlength=number)

        in_mean = (per_unit(chosen) > 0).sum().clamp(min=1)
        return in_mean if counted is None else in_mean * per_unit(counted).clamp(min=1)[unit]


SPELLED: dict[str, Divisor] = {
    "tokens": Divisor("written", "batch"),
    "selected": Divisor("selected", "batch"),
    "sequences": Divisor("written", "row"),
    "rollouts": Divisor("one", "row"),
    "sum": Divisor("one", "batch"),
}
"""Short names of the common divisors."""


def divisor_of(
    given: Reduction | Divisor | Bool[Tensor, "N T"] | float,
    columns: Columns,
    written: Bool[Tensor, "N T"],
    chosen: Bool[Tensor, "N T"],
) -> Real[Tensor, ""] | Real[Tensor, "N T"]:
    """The divisor that ``Term.mean_over`` means, 0-dim or [N, T]. ValueError for an unknown word or a number ≤ 0."""
    if isinstance(given, Tensor):
        return given.sum().clamp(min=1)
    if isinstance(given, Divisor):
        return given.of(columns, written, chosen)
    if isinstance(given, str):
        if given not in SPELLED:
            raise ValueError(
                f"mean_over must be one of {', '.join(SPELLED)}, a Divisor, a number or a bool tensor, got {given!r}"
            )
        return SPELLED[given].of(columns, written, chosen)
    if not given > 0:
        raise ValueError(f"mean_over must be above 0, got {given}")
    return torch.tensor(given, dtype=torch.float64).to(chosen.device, wide(chosen.device))


def units(columns: Columns, per: Per) -> Int[Tensor, "N T"]:
    """[N, T] long: which row, turn of a row or trajectory each position belongs to, counted from 0."""
    rows = torch.arange(len(columns.ids), device=columns.ids.device).unsqueeze(1)
    if per == "row":
        return rows.expand(columns.ids.shape)
    if per == "trajectory":
        number = numbered(required(columns.trajectory, "trajectory"))
        return number.unsqueeze(1).expand(columns.ids.shape)
    turn = required(columns.turn, "turn")
    width = int(turn.max()) + 1 if turn.numel() else 1
    return numbered(rows * width + turn.clamp(min=0))


def required(column: Shaped[Tensor, "*N"] | None, name: str) -> Shaped[Tensor, "*N"]:
    """The column. ValueError naming it if the batch has none."""
    if column is None:
        raise ValueError(f"the batch has no column {name!r}, which is read")
    return column


def wide(device: torch.device) -> torch.dtype:
    """Float64, so that a float64 objective is not rounded by its coefficients (MPS has none)."""
    return torch.float32 if device.type == "mps" else torch.float64
