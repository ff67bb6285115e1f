"""Some of a rollout's written tokens, as a mask: a capped part of what is marked, a random part, or the highest."""

from __future__ import annotations

from numbers import Integral

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.objective.aggregate import refuse_nan

# A share such as 0.29 of 100 must not lose a token to the last bit of a float product.
_ROUNDING = 1e-9


def capped(marked: Bool[Tensor, "N T"], mask: Bool[Tensor, "N T"], share: float) -> Bool[Tensor, "N T"]:
    """[N, T] bool: of each rollout's ``marked`` [N, T] tokens the first ⌊share · |y|⌋, |y| written tokens (TRACE)."""
    _require_share(share)
    kept = marked & mask
    return kept & (kept.cumsum(dim=1) <= (share * mask.sum(dim=1, keepdim=True) + _ROUNDING).floor())


def scattered(mask: Bool[Tensor, "N T"], share: float, seed: int) -> Bool[Tensor, "N T"]:
    """[N, T] bool: ⌊share · |y|⌋ of each rollout's written tokens, each as likely as any other (TRACE's ablation).

    A pure function of ``seed`` and of how much each rollout wrote: padding does not move it.
    """
    _require_share(share)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros_like(mask)
    for row, written in zip(chosen, mask, strict=True):
        places = written.nonzero().squeeze(1)
        count = int(share * len(places) + _ROUNDING)
        row[places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]] = True
    return chosen


def row_top(
    column: Float[Tensor, "N T"], over: Bool[Tensor, "N T"], most: int | float, least: int = 0
) -> Bool[Tensor, "N T"]:
    """[N, T] bool: of each row's positions in ``over`` the ``most`` (int) of highest ``column`` [N, T], or of its |y|
    such positions the ⌊most · |y|⌋ highest (float), ``least`` at least. Of equals the earlier. ValueError: NaN at a
    position in ``over``.
    """
    refuse_nan(column[over], "row_top")
    size = over.sum(dim=1, keepdim=True)
    if isinstance(most, Integral):
        count = torch.full_like(size, int(most))
    else:
        _require_share(float(most))
        count = (float(most) * size.double() + _ROUNDING).floor().long()
    count = count.clamp(min=least)
    ranked = torch.where(over, column, -torch.inf).argsort(dim=1, descending=True, stable=True)
    # Positions outside rank last, but for those of −inf inside: these are told apart by a second, stable sort.
    ranked = ranked.gather(1, over.gather(1, ranked).long().argsort(dim=1, descending=True, stable=True))
    place = torch.arange(column.shape[1], device=column.device).expand_as(ranked)
    return torch.zeros_like(over).scatter(1, ranked, place < count) & over


def _require_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
