"""The largest entries of rows as wide as a vocabulary."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions

WIDE = 4096
"""Rows from here on are searched in two rounds on a CPU, whose ``topk`` sorts (value, index) pairs of a whole row."""


def top_ids(values: Float[Tensor, "*P V"], k: int) -> Int[Tensor, "*P k"]:
    """[..., V] → [..., k] places of the ``k`` ≤ V largest entries, largest first; NaN counts as largest.

    As ``values.topk(k).indices``; of equal entries at the border either may be chosen, always the same of the same row.
    """
    width = values.shape[-1]
    stride = int((width / k) ** 0.5)
    if values.is_cuda or width < WIDE or 4 * k * stride > width:
        return values.topk(k).indices
    return _in_two_rounds(values, k, stride)


def nth_likeliest(at: Positions, n: int, k: int, role: str = STUDENT) -> Int[Tensor, "P"]:
    """[P] the id of a role's n-th likeliest token, n from 0 below ``k`` (found together, once); −1 where the vocabulary
    has fewer."""
    logits = at.logits[role]
    ids = at.once(("likeliest", role, k), lambda: top_ids(logits, min(k, logits.shape[1])))
    return ids[:, n] if n < ids.shape[1] else torch.full_like(ids[:, 0], -1)


def _in_two_rounds(values: Tensor, k: int, size: int) -> Tensor:
    """The k largest stand in the k sets of entries with the largest maxima; a set is every so-many-th entry, so that
    the maxima are taken of whole vectors."""
    width = values.shape[-1]
    sets = width // size
    maxima = values[..., : size * sets].unflatten(-1, (size, sets)).amax(-2)
    steps = sets * torch.arange(size, device=values.device)
    candidates = (maxima.topk(k).indices.unsqueeze(-1) + steps).flatten(-2)
    rest = torch.arange(size * sets, width, device=values.device).expand(*values.shape[:-1], -1)
    candidates = torch.cat([candidates, rest], dim=-1)
    return candidates.gather(-1, values.gather(-1, candidates).topk(k).indices)
