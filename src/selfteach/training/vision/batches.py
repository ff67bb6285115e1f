"""Which rows a step sees: every row once an epoch, in an order that seed and epoch give, so that nothing is stored."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def rows_of_step(count: int, batch_size: int, step: int, seed: int) -> Int[Tensor, " B"]:
    """Indices of step ``step`` (from 0) among ``count`` rows. Batches are cut from a sequence of epochs, each of which
    is a permutation of all rows; one may reach into the next epoch."""
    first, last = step * batch_size, (step + 1) * batch_size
    epochs = range(first // count, (last - 1) // count + 1)
    sequence = torch.cat([epoch_order(count, seed, epoch) for epoch in epochs])
    begin = first - epochs[0] * count
    return sequence[begin : begin + batch_size]


def epoch_order(count: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator)
