"""Keys and values of contexts that several rows share: computed once, read by every row, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from selfteach.policy.cache import reads_by_token, takes
from selfteach.policy.loading import bare

BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings that turn a token by how long the longest row of its pass is."""


def shares(model: nn.Module) -> bool:
    """Whether rows may read a context that was computed by itself: what the model keeps of it are keys and values.

    Refused: models with a state (state-space blocks, linear attention, convolutions), as transformers says of the model
    and of the cache that it makes for it; those whose forward pass takes neither a cache nor positions; and
    rotary embeddings that depend on how long a pass is, for a context by itself is shorter.
    """
    placed = takes(model, "position_ids") and takes(model, "attention_mask")
    return placed and reads_by_token(model) and not turns_by_length(bare(model).config.get_text_config())


def packs(model: nn.Module) -> bool:
    """Whether rows may stand in one without padding: attention alone mixes tokens, is flash attention, and is handed
    where they begin. Not attention in chunks (Llama 4): transformers 5.17 lets a chunk reach into the row before."""
    whole: Any = bare(model)
    if getattr(whole.config.get_text_config(), "attention_chunk_size", None):
        return False
    return (
        "flash" in str(whole.config._attn_implementation)
        and whole._supports_attention_backend
        and shares(model)
    )


def turns_by_length(config: Any) -> bool:
    """Whether a rotary embedding of this config, of any kind of layer, is one of ``BY_LENGTH``."""
    found = getattr(config, "rope_parameters", None) or {}
    every = [found, *(one for one in found.values() if isinstance(one, dict))]
    kinds = [str(one.get("rope_type", one.get("type", ""))) for one in every]
    return any(name in kind for kind in kinds for name in BY_LENGTH)


class Written(DynamicLayer):
    """A layer of the pass over C left-padded contexts: it keeps what the layer computes, of the last ``window`` slots.

    It stays as it was to whoever asks, so that a layer that is recomputed in the backward pass does the same again.
    """

    def __init__(self, window: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window, self.is_sliding = window, window is not None

    def update(
        self,
        key_states: Float[Tensor, "C h s k"],
        value_states: Float[Tensor, "C h s v"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "C h s k"], Float[Tensor, "C h s v"]]:
        if self.keys is None:
            seen = key_states.shape[-2] if self.window is None else self.window - 1
            first = max(0, key_states.shape[-2] - seen)
            self.keys, self.values = key_states[..., first:, :], value_states[..., first:, :]
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class Read(DynamicLayer):
    """The same layer as n rows see it: row i reads context ``rows[i]`` of ``length`` slots before its own tokens.

    Rows are laid out while the layer computes, and the cache keeps none of them: any number of passes may read.
    """

    keys: Float[Tensor, "C h held k"]
    values: Float[Tensor, "C h held v"]

    def __init__(self, written: Written, rows: Int[Tensor, "n"], length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if written.keys is None or written.values is None:
            raise RuntimeError(
                "a layer of the model computed no keys and values: its context cannot be shared"
            )
        self.keys, self.values, self.is_initialized = written.keys, written.values, True
        self.is_sliding, self.rows, self.length = written.is_sliding, rows, length

    def update(
        self,
        key_states: Float[Tensor, "n h t k"],
        value_states: Float[Tensor, "n h t v"],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "n h held_plus_t k"], Float[Tensor, "n h held_plus_t v"]]:
        return (
            torch.cat([self.keys.index_select(0, self.rows), key_states], dim=-2),
            torch.cat([self.values.index_select(0, self.rows), value_states], dim=-2),
        )

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        held = self.keys.shape[-2]
        return held + query_length, self.length - held


def to_write(network: PreTrainedModel) -> DynamicCache:
    """An empty cache for one pass over contexts, of a model that ``shares``."""
    cache = DynamicCache(config=network.config)
    cache.layers = [Written(getattr(layer, "sliding_window", None)) for layer in cache.layers]
    return cache


def to_read(written: DynamicCache, rows: Int[Tensor, "n"], length: int) -> DynamicCache:
    """What a pass over n rows reads of contexts of ``length`` slots (padding included) that were written."""
    cache = DynamicCache()
    cache.layers = [Read(layer, rows, length) for layer in written.layers if isinstance(layer, Written)]
    cache.layer_class_to_replicate = None
    return cache
