"""Token ids in as few bits as their vocabulary needs, and log-probs in half precision that keep their order."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

WORD = 32
ULP = 2.0**-22
"""Two steps of a float32 beside a number, as a share of it."""
TIED = 2000
"""So many equal neighbors keep an order of their own: their steps together are less than one of a half."""


def bits_of(vocabulary: int) -> int:
    """Bits of an id below ``vocabulary``: ⌈log₂ V⌉, 1 at least."""
    return max(1, (vocabulary - 1).bit_length())


def packed(ids: Int[Tensor, "P k"], bits: int) -> UInt8[Tensor, "P b"]:
    """[P, k] ids below 2^bits → [P, ⌈k · bits / 8⌉] bytes, the bits of a position's ids one after the other."""
    positions, k = ids.shape
    words = ids.numpy().astype(">u4")
    each = np.unpackbits(words.view(np.uint8).reshape(positions, k, 4), axis=-1)[..., WORD - bits :]
    return torch.from_numpy(np.packbits(each.reshape(positions, k * bits), axis=-1))


def unpacked(content: UInt8[Tensor, "P b"], k: int, bits: int) -> Int[Tensor, "P k"]:
    """What ``packed`` made, as [P, k] long."""
    positions = len(content)
    each = np.unpackbits(content.numpy(), axis=-1, count=k * bits).reshape(positions, k, bits)
    wide = np.zeros((positions, k, WORD), dtype=np.uint8)
    wide[..., WORD - bits :] = each
    words = np.packbits(wide, axis=-1).view(">u4").reshape(positions, k)
    return torch.from_numpy(words.astype(np.int64))


def untied(log_probs: Float[Tensor, "P k"]) -> Float[Tensor, "P k"]:
    """[P, k] log-probs, likeliest first, in which rounding made some neighbors equal → the same in float32, each of
    these a hair below the one before: the k' likeliest are then those that the teacher itself had."""
    wide = log_probs.float()
    place = torch.arange(wide.shape[-1]).expand_as(wide)
    new = torch.ones_like(wide, dtype=torch.bool)
    new[..., 1:] = wide[..., 1:] != wide[..., :-1]
    first = place.masked_fill(~new, 0).cummax(-1).values
    return torch.where(new, wide, wide - (place - first).clamp(max=TIED) * wide.abs() * ULP)
