"""The key-value cache of rows that are read token by token, and which models can be read so."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from selfteach.policy.loading import bare, body

ATTENTION = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers that hold keys and values and nothing else."""
GROWTH = 1.5
"""A full buffer is replaced by one so many times as long, so that a token is copied a few times at most."""


class GrowingLayer(DynamicLayer):
    """A ``DynamicLayer`` that writes new keys and values in place, into buffers [N, heads, room, width] with room left.

    transformers' own concatenates: every token copies all that came before. Without gradient only. ``limit``: tokens
    that it will ever hold (none: nobody knows).
    """

    length = 0
    column: Int[Tensor, "1"] | None = None
    key_buffer: Float[Tensor, "N h room w"]
    value_buffer: Float[Tensor, "N h room w"]

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit

    def update(
        self,
        key_states: Float[Tensor, "N h s w"],
        value_states: Float[Tensor, "N h s w"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "N h length w"], Float[Tensor, "N h length w"]]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.column is not None:
            self.key_buffer.index_copy_(2, self.column, key_states)
            self.value_buffer.index_copy_(2, self.column, value_states)
            return self.key_buffer, self.value_buffer
        begin, self.length = self.length, self.length + key_states.shape[-2]
        self.key_buffer = self._with(getattr(self, "key_buffer", None), key_states, begin)
        self.value_buffer = self._with(getattr(self, "value_buffer", None), value_states, begin)
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]
        return self.keys, self.values

    def _with(self, buffer: Tensor | None, new: Tensor, begin: int) -> Tensor:
        if buffer is None or buffer.shape[2] < self.length:
            rows, heads, _, width = new.shape
            room = new.shape[2] if buffer is None else int(GROWTH * self.length) + 16
            room = room if self.limit is None else min(room, self.limit)
            larger = new.new_empty(rows, heads, max(room, self.length), width)
            if buffer is not None:
                larger[:, :, :begin] = buffer[:, :, :begin]
            buffer = larger
        buffer[:, :, begin : self.length] = new
        return buffer

    def hold(self, room: int, column: Int[Tensor, "1"]) -> None:
        """From now on write one token at a time to ``column``, a tensor on the device, of buffers of ``room`` tokens
        that stay where they are, and return these whole."""
        self.key_buffer, self.value_buffer = (
            self._of(one, room) for one in (self.key_buffer, self.value_buffer)
        )
        # The views of the old ones would keep these.
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]
        self.column = column

    def release(self, length: int) -> None:
        """Grow again; so many tokens are held."""
        self.column, self.length = None, length
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def _of(self, buffer: Float[Tensor, "N h s w"], room: int) -> Float[Tensor, "N h room w"]:
        rows, heads, _, width = buffer.shape
        held = buffer.new_zeros(
            rows, heads, room, width
        )  # what is masked must be numbers: NaN times 0 is NaN
        held[:, :, : self.length] = buffer[:, :, : self.length]
        return held

    def batch_select_indices(self, indices: Int[Tensor, "n"]) -> None:
        if self.length:
            self.key_buffer = self.key_buffer[indices, :, : self.length]
            self.value_buffer = self.value_buffer[indices, :, : self.length]
            self.keys, self.values = self.key_buffer, self.value_buffer


def reads_by_token(model: nn.Module) -> bool:
    """Whether all that ``model`` remembers of a text are keys and values of attention: whole rows of it can then be
    taken, left out and repeated. State-space, recurrent and linear-attention layers keep something else."""
    policy = bare(model)
    if not takes(model, "past_key_values") or getattr(policy, "_is_stateful", False):
        return False
    layers = DynamicCache(config=policy.config.get_text_config()).layers
    return all(type(one) in ATTENTION for one in layers)


def masks_by_key(model: nn.Module) -> bool:
    """Whether a single new token may be given, for its mask, which keys each row has: [N, 1, 1, keys]. Every layer then
    attends to all of them, by torch's own attention, and no position is told by the mask."""
    config = bare(model).config.get_text_config()
    plain = all(type(one) is DynamicLayer for one in DynamicCache(config=config).layers)
    told = takes(model, "position_ids") and not getattr(config, "alibi", False)
    return plain and told and config._attn_implementation == "sdpa"


def shares_keys(model: nn.Module) -> bool:
    """Whether several heads of its queries share keys and values."""
    config = bare(model).config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    return heads is not None and getattr(config, "num_key_value_heads", heads) != heads


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the part of ``model`` that makes hidden states has an argument of this name."""
    return argument in inspect.signature(body(model).forward).parameters


def growing_cache(model: nn.Module, limit: int | None = None) -> DynamicCache:
    """An empty cache for decoding without gradient, of at most ``limit`` tokens a row."""
    cache = DynamicCache(config=bare(model).config.get_text_config())
    cache.layers = [GrowingLayer(limit) if type(one) is DynamicLayer else one for one in cache.layers]
    return cache
