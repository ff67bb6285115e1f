"""Fix every term's coefficients over the whole batch, before any gradient is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.objective.columns import Columns, by_position, require_shape
from selfteach.objective.divisor import divisor_of, wide
from selfteach.objective.terms import Term


@dataclass(frozen=True)
class Weighted:
    """A term with its coefficients [N, T] fixed over the whole batch."""

    term: Term
    coefficients: Float[Tensor, "N T"]


@torch.no_grad()
def plan(terms: Iterable[Term], columns: Columns, rows: Bool[Tensor, "N"] | None = None) -> list[Weighted]:
    """Each term with its [N, T] coefficients: weight × coefficient / divisor where it selects, else 0.

    ``rows`` [N] bool: the rows of the present update; the others are neither selected nor counted (None: all of them
    are of the update). ValueError naming a term with a column that is not [N] or [N, T], or whose weight is NaN or
    infinite at a token it selects.
    """
    return [_planned(term.tempered(1.0), columns, rows) for term in terms]


def _planned(term: Term, columns: Columns, rows: Tensor | None) -> Weighted:
    _refuse_misfits(term, columns)
    written = columns.seen(term.reads)
    if rows is not None:
        written = written & rows.unsqueeze(1)
    chosen = written if term.where is None else written & by_position(term.where)
    device = chosen.device
    weight = by_position(torch.as_tensor(term.weight, device=device).to(wide(device)))
    unfit = chosen & ~weight.isfinite()
    if unfit.any():
        row, step = unfit.nonzero()[0].tolist()
        value = float(weight.expand(chosen.shape)[row, step])
        raise ValueError(
            f"term {term.name!r}: weight is {value} at row {row}, position {step}, which it selects"
        )
    per_token = torch.where(chosen, weight, torch.zeros_like(weight)) * term.coefficient
    return Weighted(term.planned(chosen), per_token / divisor_of(term.mean_over, columns, written, chosen))


def _refuse_misfits(term: Term, columns: Columns) -> None:
    """A longer [T] would be read as [N] without a word, a NaN coefficient as a loss, an index as a mask."""
    if not math.isfinite(term.coefficient):
        raise ValueError(f"term {term.name!r}: coefficient is {term.coefficient}, not a finite number")
    temperature = getattr(term, "temperature", 1.0)
    if isinstance(temperature, int | float) and not 0 < temperature < math.inf:
        raise ValueError(f"term {term.name!r}: temperature must be positive, got {temperature}")
    if term.where is not None and term.where.dtype != torch.bool:
        raise ValueError(f"term {term.name!r}: where must be a bool tensor, got {term.where.dtype}")
    rows, steps = columns.ids.shape
    for name in term.placed:
        value = getattr(term, name)
        if isinstance(value, Tensor) and value.dim():
            require_shape(f"term {term.name!r}: {name}", value, (rows,), (rows, steps))
