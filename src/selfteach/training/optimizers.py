"""Optimizers by name, and what room their state takes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from selfteach.errors import UserError
from selfteach.recipes.parts import Optim

SHARDED_OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "sgd"}
"""Those whose step and state of a shard are the same as of the whole tensor."""
EIGHT_BIT_FROM = 4096
"""Numbers of a tensor from which bitsandbytes keeps its moments in 8 bits; in blocks of ``EIGHT_BIT_BLOCK``, each with
a float32 scale."""
EIGHT_BIT_BLOCK = 256


def optimizer_of(
    optim: Optim,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """The optimizer over ``parameters``. Decay of weights is decoupled in each: p ← p (1 − lr · weight_decay) beside
    its step. ``betas`` are AdamW's.

    "adafactor" is torch's: second moments by row and column, no first one; ``lr`` is relative to a tensor's root mean
    square, and no more than 1/√step. "sgd" has no momentum, and so no state. Raises UserError for "adamw_8bit" where
    bitsandbytes is missing, or the parameters are on the CPU.
    """
    every = list(parameters)
    if optim == "adafactor":
        return torch.optim.Adafactor(every, lr=lr, weight_decay=weight_decay)
    if optim == "sgd":  # without momentum a decay in the gradient and one beside it are the same
        return torch.optim.SGD(every, lr=lr, weight_decay=weight_decay)
    if optim == "adamw_8bit":
        made: torch.optim.Optimizer = eight_bit(every).AdamW8bit(
            every, lr=lr, betas=betas, weight_decay=weight_decay
        )
        return made
    return torch.optim.AdamW(
        every, lr=lr, betas=betas, weight_decay=weight_decay, fused=optim == "adamw_torch_fused" or None
    )


def eight_bit(parameters: Iterable[nn.Parameter]) -> Any:
    """``bitsandbytes.optim``. UserError where it is not installed, or could not move these parameters."""
    other = "take --optim adafactor, which needs less room still"
    if any(one.device.type == "cpu" for one in parameters):
        raise UserError(
            f"optim adamw_8bit keeps its state on an accelerator, and this run is on the CPU: {other}"
        )
    try:
        return importlib.import_module("bitsandbytes.optim")
    except ImportError:
        raise UserError(
            f"optim adamw_8bit needs bitsandbytes: pip install bitsandbytes, or {other}"
        ) from None


def state_bytes(optim: Optim, parameters: Iterable[Shaped[Tensor, "..."]]) -> int:
    """Bytes of the optimizer's state beside the weights and their gradients."""
    return sum(state_bytes_of(optim, one) for one in parameters)


def state_bytes_of(optim: Optim, one: Shaped[Tensor, "..."]) -> int:
    if optim == "sgd":
        return 0
    if optim == "adafactor":
        return one.element_size() * factors(one)
    if optim == "adamw_8bit" and one.numel() >= EIGHT_BIT_FROM:
        return 2 * (one.numel() + 4 * (one.numel() // EIGHT_BIT_BLOCK + 1))
    return 2 * one.nbytes


def factors(one: Shaped[Tensor, "..."]) -> int:
    """Numbers that Adafactor keeps of a tensor: its rows' and its columns' means, or those of a vector themselves."""
    if one.dim() < 2:
        return one.numel()
    return one.numel() // one.shape[-1] + one.numel() // one.shape[-2]
