"""Activations recomputed in the backward pass, of a model in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from selfteach.errors import UserError

Checkpointing = Literal["none", "selective", "full"]
"""What a layer's pass keeps for its backward pass: all that is asked for; its input and what products of matrices and
attention gave, from which the rest is computed again (selective activation checkpointing); or its input alone."""

PRODUCTS = (
    "mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_scaled_grouped_mm", "convolution",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable", "_flash_attention_forward", "_efficient_attention_forward",
)  # fmt: skip
"""torch's operators that cost more to compute again than to keep."""
KEPT = frozenset(getattr(torch.ops.aten, one).default for one in PRODUCTS if hasattr(torch.ops.aten, one))


def recompute(network: nn.Module, checkpointing: Checkpointing = "full") -> None:
    """From now on a forward pass that wants gradients keeps less of each layer, and computes the rest anew.

    transformers' own switch works in training mode only, where dropout and noise of routers would be on: what is
    trained would be another policy than what was sampled. Raises UserError where no layer can be recomputed.
    """
    if checkpointing == "none":
        return
    layers = [one for one in network.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no layers that can be recomputed: leave out --gradient-checkpointing."
        )
    forward = {"selective": _in_part, "full": _as_a_whole}[checkpointing]
    for layer in layers:
        # A method, not a closure: of a copied model it belongs to the copy.
        layer.forward = MethodType(forward, layer)


def _as_a_whole(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _recomputed(layer, checkpoint, *args, **kwargs)


def _in_part(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _kept)

    def way(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return checkpoint(partial(_uncached, forward), *args, context_fn=contexts, **kwargs)

    return _recomputed(layer, way, *args, **kwargs)


def _uncached(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Without autocast's memory of weights that it has converted: a layer that is called twice would make other
    operations when it is computed again."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        return forward(*args, **kwargs)
    finally:
        torch.set_autocast_cache_enabled(before)


def _recomputed(layer: nn.Module, way: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    forward = MethodType(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return way(forward, *args, use_reentrant=False, **kwargs)


def _kept(context: object, operator: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


class Products(TorchDispatchMode):
    """While it is on, ``note`` is told every tensor that selective checkpointing keeps."""

    def __init__(self, note: Callable[[Shaped[Tensor, "..."]], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in KEPT:
            for one in tree_leaves(found):
                if isinstance(one, Tensor):
                    self.note(one)
        return found
