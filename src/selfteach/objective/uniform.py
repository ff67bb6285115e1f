"""Random numbers that belong to positions: a pure function of who asks and where, whatever the split or the order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_STEPS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def uniform(
    key: str, rows: int, steps: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "N T"]:
    """[rows, steps] numbers uniform in [0, 1), each a hash of (``key``, row, step).

    A counter through SplitMix64 (Steele, Lea, Flood 2014), its top bits as many as ``dtype`` holds below 1.
    """
    row = torch.arange(rows, device=device).unsqueeze(1)
    state = _mixed(row * _signed(_STEPS[0]) + _signed(_hashed(key)))
    return _numbers(state, torch.arange(steps, device=device), dtype)


def starts_of(keys: Sequence[str], device: torch.device | str) -> Int[Tensor, "N"]:
    """[N] where the stream of each key begins (``stream``)."""
    return torch.tensor([_signed(_hashed(key)) for key in keys], dtype=torch.int64, device=device)


def stream(
    starts: Int[Tensor, "N"], first: int, count: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "N count"]:
    """[N, count] numbers uniform in [0, 1): those from the ``first`` on of each row's own stream."""
    return _numbers(starts.unsqueeze(1), torch.arange(first, first + count, device=starts.device), dtype)


def _hashed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _numbers(state: Int[Tensor, "N 1"], steps: Int[Tensor, "T"], dtype: torch.dtype) -> Float[Tensor, "N T"]:
    bits = 53 if dtype == torch.float64 else 24
    mixed = _mixed(state + steps * _signed(_STEPS[1]))
    return _shifted(mixed, 64 - bits).to(dtype) * 2.0**-bits


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
