"""From final hidden states to logits and back: the one place where the vocabulary's width appears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

TILE_BYTES = 32 * 2**20
"""At most so much of a half-precision weight is held in float32 at a time."""


@dataclass(frozen=True)
class LowRank:
    """A LoRA update of the output weight: W + scaling · up @ down. ``down`` [r, d], ``up`` [V, r]."""

    down: Float[Tensor, "r d"]
    up: Float[Tensor, "V r"]
    scaling: float


@dataclass(frozen=True)
class Head:
    """An output head: logits = softcap(scale · (hidden @ weight.T + bias + LoRA)).

    ``weight`` [V, d] (None: ``hidden`` already holds logits), ``bias`` [V], ``softcap`` c gives
    c · tanh(z / c) (Gemma 2), ``scale`` multiplies (Cohere, Granite). ``vocabulary`` cuts padded columns off,
    so that two checkpoints of one tokenizer whose matrices were padded differently give equal widths. ``half``: a
    bfloat16 copy of a float32 ``weight`` for runs of mixed precision; a GPU multiplies with it and sums in float32,
    a CPU, whose bfloat16 products are rounded, does not use it. The gradient is ``weight``'s either way. ``product``:
    another way to hidden @ weight[:vocabulary].T (in float32), where no gradient of it is wanted.

    Logits are float32 at least, and of half-precision weights too they are *computed* so: rounding a logit of
    10 to bfloat16 moves its probability by up to 3 %, and the gradient with it.
    """

    weight: Float[Tensor, "V d"] | None = None
    bias: Float[Tensor, "V"] | None = None
    lora: LowRank | None = None
    scale: float = 1.0
    softcap: float | None = None
    vocabulary: int | None = None
    half: BFloat16[Tensor, "V d"] | None = None
    product: Callable[[Float[Tensor, "P d"]], Float[Tensor, "P V"]] | None = None

    @property
    def factor(self) -> Float[Tensor, "V d"] | None:
        """What states are multiplied with: ``half`` where bfloat16 units sum in float32 (CUDA), else ``weight``."""
        return self.half if self.half is not None and _tensor_cores_sum_in_float32(self.half) else self.weight

    @property
    def tensors(self) -> tuple[Float[Tensor, "..."], ...]:
        """The tensors that may want a gradient: weight, bias, LoRA's down and up, as far as there are any."""
        lora = () if self.lora is None else (self.lora.down, self.lora.up)
        return tuple(t for t in (self.weight, self.bias, *lora) if t is not None)

    def logits(self, hidden: Float[Tensor, "P d"]) -> Float[Tensor, "P V"]:
        """[P, d] hidden states → [P, V] logits, float32 or float64."""
        factor = self.factor
        if self.product is not None:
            logits = self.product(_wide(hidden))
        else:
            logits = _wide(hidden) if factor is None else _product(hidden, factor[: self.vocabulary])
        if self.bias is not None:
            logits = logits + self.bias[: self.vocabulary]
        if self.lora is not None:
            low = _product(hidden, self.lora.down) * self.lora.scaling
            logits = logits + _product(low, self.lora.up[: self.vocabulary])
        logits = logits[..., : self.vocabulary]
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def before_softcap(
        self, gradient: Float[Tensor, "P V"], logits: Float[Tensor, "P V"]
    ) -> Float[Tensor, "P V"]:
        """[P, V] gradient in ``logits`` → the gradient in hidden @ weight.T + bias + LoRA. Overwrites it."""
        if self.softcap is not None:
            gradient.mul_(1 - (logits / self.softcap).square())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)

    def pull_back(
        self,
        gradient: Float[Tensor, "P V"],
        hidden: Float[Tensor, "P d"],
        sums: Sequence[Float[Tensor, "..."] | None],
    ) -> Float[Tensor, "P d"]:
        """[P, V] gradient of ``before_softcap`` → [P, d] gradient in ``hidden``.

        The gradients of ``tensors`` are added to ``sums``, in that order; None: not wanted.
        """
        wanted = iter(sums)
        factor = self.factor
        if factor is None:
            states = torch.nn.functional.pad(gradient, (0, hidden.shape[1] - gradient.shape[1]))
        else:
            _add_outer(next(wanted), gradient, hidden)
            states = _product_back(gradient, factor[: self.vocabulary])
        if self.bias is not None and (bias := next(wanted)) is not None:
            bias[: self.vocabulary] += gradient.sum(0)
        if self.lora is not None:
            down, up = next(wanted), next(wanted)
            _add_outer(up, gradient, _product(hidden, self.lora.down) * self.lora.scaling)
            low = _product_back(gradient, self.lora.up[: self.vocabulary]) * self.lora.scaling
            _add_outer(down, low, hidden)
            states += _product_back(low, self.lora.down)
        return states


IDENTITY = Head()


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def _product(states: Tensor, weight: Tensor) -> Tensor:
    """[P, d] @ [V, d].T → [P, V], summed and returned in float32 at least."""
    if _tensor_cores_sum_in_float32(weight):
        return torch.mm(states.to(weight.dtype), weight.T, out_dtype=torch.float32)
    states = _wide(states)
    parts = [states.to(tile.dtype) @ tile.T for _, tile in _wide_tiles(weight)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _product_back(gradient: Tensor, weight: Tensor) -> Tensor:
    """[P, V] @ [V, d] → [P, d], summed and returned in float32 at least."""
    if _tensor_cores_sum_in_float32(weight):
        return torch.mm(gradient.to(weight.dtype), weight, out_dtype=torch.float32)
    total = gradient.new_zeros(len(gradient), weight.shape[1], dtype=_wide(weight[:0]).dtype)
    for rows, tile in _wide_tiles(weight):
        total.addmm_(gradient[:, rows].to(tile.dtype), tile)
    return total


def _add_outer(total: Tensor | None, gradient: Tensor, states: Tensor) -> None:
    """total[:V] += [P, V].T @ [P, d]; the rows beyond V are padding."""
    if total is None:
        return
    target = total[: gradient.shape[1]]
    if states.dtype == torch.bfloat16 and states.is_cuda:
        torch.addmm(target, gradient.to(states.dtype).T, states, out_dtype=torch.float32, out=target)
    else:
        target.addmm_(gradient.to(target.dtype).T, states.to(target.dtype))


def _tensor_cores_sum_in_float32(weight: Tensor) -> bool:
    return weight.is_cuda and weight.dtype == torch.bfloat16 and not torch.is_grad_enabled()


def _wide_tiles(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a weight in float32 at least, a tile of a half-precision one at a time."""
    wide = weight.dtype in (torch.float32, torch.float64)
    length = max(1, len(weight) if wide else TILE_BYTES // (4 * weight.shape[1]))
    for start in range(0, len(weight), length):
        rows = slice(start, start + length)
        yield rows, _wide(weight[rows])
