"""Random numbers that belong to positions: a pure function of who asks and where, whatever the split or the order."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(
    key: str, rows: int, steps: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "N T"]:
    """[rows, steps] numbers uniform in [0, 1), each a hash of (``key``, row, step).

    A counter through SplitMix64 (Steele, Lea, Flood 2014), its top bits as many as ``dtype`` holds below 1.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    row = torch.arange(rows, device=device).unsqueeze(1)
    state = (_mixed(row * _signed(_STEPS[0]) + _signed(seed))) + torch.arange(steps, device=device) * _signed(
        _STEPS[1]
    )
    bits = 53 if dtype == torch.float64 else 24
    return _shifted(_mixed(state), 64 - bits).to(dtype) * 2.0**-bits


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's finalizer; torch's int64 products wrap as its uint64 ones do."""
    for shift, factor in _MIX:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, by: int) -> Tensor:
    """A logical shift to the right; that of int64 would drag the sign along."""
    return (state >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
