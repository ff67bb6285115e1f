"""Columns brought together: units numbered, sums and means over them, thresholds over the batch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def numbered(values: Int[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """In place of each value its number among the distinct ones, counted from 0."""
    number: Tensor = values.unique(return_inverse=True)[1]
    return number


def mean_of_means(values: Float[Tensor, "N"], number: Int[Tensor, "N"]) -> Float[Tensor, ""]:
    """[N] values and the unit that each is of → the mean over units of the unit's mean; 0 of nothing."""
    unit = numbered(number)
    size = unit.bincount()
    return (values / size[unit]).sum() / max(1, len(size))


def first_row_of(number: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
    """[N] trajectories' numbers → [N] long: the first row of each row's trajectory."""
    unit, row = numbered(number), torch.arange(len(number), device=number.device)
    first = row.new_full((len(number),), len(number)).scatter_reduce(0, unit, row, "amin")
    return first[unit]


def first_place_of(
    over: Bool[Tensor, "N T"], turn: Int[Tensor, "N T"] | None, number: Int[Tensor, "N"] | None
) -> Int[Tensor, "N"]:
    """[N] long: the flat place (row · T + position) of the first token ``over`` selects of each row's trajectory, in
    its earliest turn, in whichever row that stands; −1 where there is none. ``number`` None: a row is a trajectory."""
    if not over.numel():
        return torch.full((len(over),), -1, dtype=torch.long, device=over.device)
    place = torch.arange(over.numel(), device=over.device).reshape(over.shape)
    order = place if turn is None else turn.clamp(min=0) * over.numel() + place
    nowhere = torch.iinfo(order.dtype).max
    first = order.masked_fill(~over, nowhere).amin(dim=1)
    if number is not None:
        unit = numbered(number)
        first = first.new_full((len(over),), nowhere).scatter_reduce(0, unit, first, "amin")[unit]
    return (first % over.numel()).masked_fill(first == nowhere, -1)


def sum_by(
    unit: Int[Tensor, "N T"], column: Float[Tensor, "N T"], over: Bool[Tensor, "N T"]
) -> Float[Tensor, "U"]:
    """[N, T] units (counted from 0; −1: none) and a column → [U] sums over the positions ``over`` [N, T] selects.

    U is the largest number + 1; a unit that has no such position sums to 0.
    """
    number = int(unit.max()) + 1 if unit.numel() else 0
    chosen = over & (unit >= 0)
    return column.new_zeros(max(number, 0)).index_add(0, unit[chosen], column[chosen])


def mean_by(
    unit: Int[Tensor, "N T"], column: Float[Tensor, "N T"], over: Bool[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """[N, T] → [N, T]: the mean over the unit each position belongs to; NaN outside ``over`` and where unit is −1."""
    count = sum_by(unit, torch.ones_like(column), over)
    mean = sum_by(unit, column, over) / count.clamp(min=1)
    inside = over & (unit >= 0)
    spread = torch.full_like(column, torch.nan)
    spread[inside] = mean[unit[inside]]
    return spread


def to_go(
    column: Float[Tensor, "N T"], over: Bool[Tensor, "N T"], discount: float = 1.0
) -> Float[Tensor, "N T"]:
    """[N, T] → [N, T]: at each position that ``over`` [N, T] selects the sum of the column from there to the row's end,
    Σ_{k≥0} discount^k · column, k counting selected positions; NaN elsewhere.

    ValueError: discount outside [0, 1].
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must lie in [0, 1], got {discount}")
    kept = torch.where(over, column, 0.0)
    if discount == 1:
        return kept.flip(1).cumsum(dim=1).flip(1).masked_fill(~over, torch.nan)
    sums, behind = torch.full_like(column, torch.nan), kept.new_zeros(len(kept))
    for t in reversed(range(column.shape[1])):
        behind = torch.where(over[:, t], kept[:, t] + discount * behind, behind)
        sums[:, t] = torch.where(over[:, t], behind, torch.nan)
    return sums


def standardized(
    values: Float[Tensor, "*N"], over: Bool[Tensor, "*N"], epsilon: float = 1e-4
) -> Float[Tensor, "*N"]:
    """(x − mean) / max(standard deviation, ε) over the entries that ``over`` selects, the deviation a population's
    (divided by n); NaN outside (REINFORCE++).

    ValueError: NaN among them.
    """
    chosen = values[over]
    refuse_nan(chosen, "standardized")
    spread = torch.full_like(values, torch.nan)
    if len(chosen):
        centered = chosen - chosen.mean()
        spread[over] = centered / centered.square().mean().sqrt().clamp(min=epsilon)
    return spread


def quantile_over(column: Float[Tensor, "*N"], q: float, over: Bool[Tensor, "*N"]) -> Float[Tensor, ""]:
    """0-dim: the value below which a share ``q`` of the selected entries lies, between neighbors linear; NaN of none.

    ValueError: q outside [0, 1], NaN among the entries.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie in [0, 1], got {q}")
    values = column[over].sort().values
    if not len(values):
        return column.new_full((), torch.nan)
    refuse_nan(values, "quantile")
    place = q * (len(values) - 1)
    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return torch.lerp(low, high, place - int(place))


def refuse_nan(values: Float[Tensor, "*N"], what: str) -> None:
    """ValueError where a comparison would quietly leave NaN out."""
    if values.isnan().any():
        raise ValueError(f"{what}: the column is NaN at entries that are compared; select others with among")
