"""What happens to gradients and weights between ``backward`` and the next step, whoever computed them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from selfteach.policy.sharding import gathered, local
from selfteach.training.reduce import gather_rows, processes

BUCKET_BYTES = 64 << 20
"""Gradients that are sent together: many small tensors cost a round trip each, one huge one a second copy."""


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add every parameter's ``.grad`` over the processes (a sum, not a mean: a loss's divisors span all of them).

    A parameter that only some processes reached counts as 0 in the others; one that none reached keeps None. Those of
    sharded modules were added while they were taken.
    """
    every = [one for one in parameters if not isinstance(one, DTensor)]
    if processes()[1] == 1 or not every:
        return
    reached = torch.tensor([p.grad is not None for p in every], dtype=torch.int8, device=every[0].device)
    distributed.all_reduce(reached, distributed.ReduceOp.MAX)
    gradients = []
    for parameter, anywhere in zip(every, reached.tolist(), strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        distributed.all_reduce(flat)
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def buckets(tensors: Iterable[Shaped[Tensor, "..."]]) -> Iterator[list[Shaped[Tensor, "..."]]]:
    """The tensors in order, in lists of one dtype and device and about ``BUCKET_BYTES``."""
    bucket: list[Shaped[Tensor, "..."]] = []
    size = 0
    for tensor in tensors:
        alike = not bucket or (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def clip(parameters: Iterable[nn.Parameter], bound: float | None) -> float:
    """The norm of the whole gradient, which is scaled down to ``bound`` where it is longer (None: never)."""
    return float(gathered(nn.utils.clip_grad_norm_(list(parameters), bound or math.inf)))


@torch.no_grad()
def not_finite(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> str | None:
    """The name of the first tensor that holds NaN or an infinity; None if all numbers are finite. Every process must
    call it with its parts of sharded ones, and hears of the others'."""
    sharded = any(isinstance(one, DTensor) for one in tensors.values())
    found = _not_finite({name: local(one) for name, one in tensors.items()})
    return next((one for one in gather_rows([found]) if one is not None), None) if sharded else found


def _not_finite(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> str | None:
    floating = {
        name: tensor for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel()
    }
    if not floating:
        return None
    # A sum reads each number once and writes none. It is finite only if all numbers are; where it is not, it may
    # itself have run over.
    sums = [tensor.sum().float() for tensor in floating.values()]
    together = torch.stack([one.to(sums[0].device) for one in sums])  # one wait, not many
    if bool(together.isfinite().all()):
        return None
    return next((name for name, tensor in floating.items() if not tensor.isfinite().all()), None)


@torch.no_grad()
def broadcast(tensors: Iterable[Shaped[Tensor, "..."]]) -> None:
    """Give every process the first one's numbers."""
    if processes()[1] > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
