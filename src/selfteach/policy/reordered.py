"""Linear layers of a model on a CPU with their weights reordered for oneDNN, as long as no gradient is wanted.

The products of a few rows with a matrix, of which decoding consists, take some half of the time then (benchmarks/
bench_decoding.py). The numbers are those of float32 (or bfloat16) arithmetic as before, summed in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from selfteach.objective.head import Head
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sharding import is_split

DTYPES = (torch.float32, torch.bfloat16)
LEAST = 2**16
"""Entries of a matrix: of smaller ones the call takes more than the product."""
SCORED = 256
"""Tokens to be scored from which on reordering pays: it takes as long as some 70 of them."""
Multiply = Callable[[Float[Tensor, "*P d"]], Float[Tensor, "*P o"]]


def pays(weight: Float[Tensor, "o d"]) -> bool:
    """Whether a matrix is worth reordering, and can be: on a CPU whose torch has oneDNN."""
    here = weight.device.type == "cpu" and weight.dtype in DTYPES and torch.backends.mkldnn.is_available()
    return weight.numel() >= LEAST and here and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


@torch.no_grad()
def product(weight: Float[Tensor, "o d"], bias: Float[Tensor, "o"] | None, rows: int) -> Multiply:
    """[..., d] → [..., o] as ``nn.Linear`` gives it, from a copy of ``weight`` reordered for some ``rows`` at once."""
    ops: Any = torch.ops.mkldnn
    weights = ops._reorder_linear_weight(weight.detach().contiguous(), rows)
    shift = None if bias is None else bias.detach()

    def of(states: Float[Tensor, "*P d"]) -> Float[Tensor, "*P o"]:
        found: Float[Tensor, "*P o"] = ops._linear_pointwise(states, weights, shift, "none", [], "")
        return found

    return of


def reordered_head(head: Head, rows: int, memory: int) -> Head:
    """The same head with its weights reordered in float32, where that pays and takes no more than ``memory`` bytes."""
    weight = head.weight
    if weight is None or not pays(weight) or 4 * weight.numel() > memory:
        return head
    return replace(head, product=product(weight[: head.vocabulary].float(), None, rows))


def reordered_bytes(policy: Policy, *, head: bool) -> int:
    """What the copies take while a policy samples (``head``: its output matrix's too) or scores."""
    memory, found = policy.room.memory, sum(one.weight.nbytes for one in layers_of(policy.model))
    matrix = bare(policy.model).get_output_embeddings().weight
    with_head = head and pays(matrix) and 4 * matrix.numel() <= memory
    return (found if found <= memory else 0) + (4 * matrix.numel() if with_head else 0)


def layers_of(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that are worth it, but for the output head, which ``reordered_head`` is for."""
    head = bare(model).get_output_embeddings() if isinstance(model, PreTrainedModel | PeftModel) else None
    return [one for one in model.modules() if type(one) is nn.Linear and one is not head and pays(one.weight)]


@contextmanager
def reordered(model: nn.Module, rows: int, memory: int) -> Iterator[None]:
    """Within it every linear layer of ``model`` computes so, in copies as large as its weights; nothing changes where
    these copies would take more than ``memory`` bytes, or cannot be made.

    The weights must not change within it, and no gradient can be taken.
    """
    layers = layers_of(model)
    if sum(one.weight.nbytes for one in layers) > memory or torch.is_autocast_enabled("cpu"):
        layers = []
    try:
        for layer in layers:
            layer.forward = product(layer.weight, layer.bias, rows)  # type: ignore[assignment]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


@contextmanager
def reordered_for(policy: Policy, tokens: int) -> Iterator[None]:
    """``reordered`` for scoring so many tokens without gradient, where that pays: bfloat16 products of many rows take
    no less time then."""
    dtype = next(policy.model.parameters()).dtype
    if tokens < SCORED or dtype != torch.float32 or torch.is_grad_enabled() or is_split(bare(policy.model)):
        yield
        return
    with reordered(policy.model, SCORED, policy.room.memory):
        yield
