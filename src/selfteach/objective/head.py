"""From final hidden states to logits: the one place where the vocabulary's width appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A LoRA update of the output weight: W + scaling · up @ down. ``down`` [r, d], ``up`` [V, r]."""

    down: Tensor
    up: Tensor
    scaling: float


@dataclass(frozen=True)
class Head:
    """An output head: logits = softcap(scale · (hidden @ weight.T + bias + LoRA)).

    ``weight`` [V, d] (None: ``hidden`` already holds logits), ``bias`` [V], ``softcap`` c gives
    c · tanh(z / c) (Gemma 2), ``scale`` multiplies (Cohere, Granite). ``vocabulary`` cuts padded columns off,
    so that two checkpoints of one tokenizer whose matrices were padded differently give equal widths.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    lora: LowRank | None = None
    scale: float = 1.0
    softcap: float | None = None
    vocabulary: int | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that may want a gradient, in the order ``logits`` takes them back."""
        lora = () if self.lora is None else (self.lora.down, self.lora.up)
        return tuple(t for t in (self.weight, self.bias, *lora) if t is not None)

    def logits(self, hidden: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """[P, d] hidden states → [P, V] logits; ``tensors`` stand in for ``self.tensors`` (for gradients)."""
        given = list(self.tensors if tensors is None else tensors)
        weight = given.pop(0) if self.weight is not None else None
        bias = given.pop(0) if self.bias is not None else None
        logits = (
            hidden if weight is None else torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias)
        )
        if self.lora is not None:
            down, up = given
            logits = logits + self.lora.scaling * (hidden.to(down.dtype) @ down.T @ up.T).to(logits.dtype)
        if self.vocabulary is not None:
            logits = logits[..., : self.vocabulary]
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


IDENTITY = Head()
