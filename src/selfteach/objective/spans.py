"""Some of a rollout's written tokens, as a mask: a capped part of what is marked, or a random part of all."""

from __future__ import annotations

import torch
from torch import Tensor

# A share such as 0.29 of 100 must not lose a token to the last bit of a float product.
_ROUNDING = 1e-9


def capped(marked: Tensor, mask: Tensor, share: float) -> Tensor:
    """[N, T] bool: of each rollout's ``marked`` [N, T] tokens the first ⌊share · |y|⌋, |y| written tokens (card 04)."""
    _require_share(share)
    kept = marked & mask
    return kept & (kept.cumsum(dim=1) <= (share * mask.sum(dim=1, keepdim=True) + _ROUNDING).floor())


def scattered(mask: Tensor, share: float, seed: int) -> Tensor:
    """[N, T] bool: ⌊share · |y|⌋ of each rollout's written tokens, each as likely as any other (card 04's ablation).

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


def _require_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
