"""Activations recomputed in the backward pass, of a model in evaluation mode."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from selfteach.errors import UserError


def recompute(network: nn.Module) -> None:
    """From now on a forward pass that wants gradients keeps each layer's input alone, and computes the layer anew.

    transformers' own switch works in training mode only, where dropout and noise of routers would be on: what is
    trained would be another policy than what was sampled. Raises UserError where no layer can be recomputed.
    """
    layers = [one for one in network.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"{type(network).__name__} has no layers that can be recomputed: leave out --gradient-checkpointing."
        )
    for layer in layers:
        # A method, not a closure: of a copied model it belongs to the copy.
        layer.forward = MethodType(_recomputed, layer)


def _recomputed(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = MethodType(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
