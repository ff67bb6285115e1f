"""How many rows go through a model at once: what a token of theirs takes there, and what memory there is for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from selfteach.policy.recomputing import Checkpointing
from selfteach.policy.sharding import local

SHARE = 4
"""One part in so many of the memory is for what passes through a model; the rest is for weights, optimizer, others."""
LEAST = 2**26
"""Bytes: a pass may take so much on any machine."""
MOST_ROWS = 1024
"""Of a batch, however small its rows: more gain nothing, and nobody could see how far it is."""
LAYER_STATES, TRAINED_STATES = 16, 18
"""Vectors of a layer's width that a token holds while the layer computes: without gradient, and kept for it."""
LAYER_INNER, TRAINED_INNER = 3, 4
"""The same of the MLP's inner width."""
PRODUCT_STATES, PRODUCT_INNER = 8, 2
"""What is kept for the gradient of products of matrices and attention alone."""
DRAWN_COPIES = 5
"""Arrays as wide as the vocabulary while a row's next token is drawn: logits, log-probs, what is kept, the draw."""
READ_BEHIND = 6
"""A row that reads a shared context holds one part in so many of what it would take to compute it: keys and values."""
FLOAT = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes that a model takes beside its weights, estimated from its config (float32, which other precisions stay
    below): ``cached`` a token of a row being sampled, ``drawn`` a row while its next token is drawn, ``read`` a token
    that is read without gradient, ``trained`` one that is scored with gradient."""

    cached: int
    drawn: int
    read: int
    trained: int


@dataclass
class Room:
    """``memory``: bytes that the rows of one pass may take together, whatever their number. It decides how sampling and
    scoring are cut into batches, and so how sums are rounded: a run that is resumed keeps what it had."""

    memory: int
    needs: Footprint

    def sampling(self, prompts: Sequence[int], new: int, most: int | None = None) -> Iterator[range]:
        """Prompts of these lengths and up to ``new`` tokens after each, cut into batches to sample one after another;
        ``most``: rows a batch (none: as many as fit)."""
        return batches(
            prompts, self.needs.cached + self.needs.read, self.needs.cached * new + self.needs.drawn,
            self.memory, most,
        )  # fmt: skip

    def scoring(
        self, lengths: Sequence[int], most: int | None = None, *, gradient: bool = False
    ) -> Iterator[range]:
        """Rows of these lengths, cut into batches to score one after another."""
        return batches(lengths, self.needs.trained if gradient else self.needs.read, 0, self.memory, most)


def behind(context: int, response: int, rows: int) -> int:
    """Tokens whose memory one of so many rows takes with gradient that share their context: its response, what it
    reads, and its part of the context; never more than it takes alone."""
    whole = context + response
    return min(whole, response + -(-whole // READ_BEHIND) + -(-context // rows))


def read_behind(context: int, response: int, rows: int, needs: Footprint) -> int:
    """The same without gradient: keys and values of a shared context are kept of all layers, where else nothing is;
    never less than it takes alone."""
    whole = context + response
    if rows == 1:
        return whole
    kept = -(-context * (needs.read + needs.cached) // (rows * needs.read))
    return max(whole, response + -(-whole // READ_BEHIND) + kept)


def batches(
    lengths: Sequence[int], token: int, row: int, memory: int, most: int | None = None
) -> Iterator[range]:
    """Consecutive ranges of rows: of at most ``most`` rows, or (none) of as many as fit.

    Padded to the longest: rows ≤ ``MOST_ROWS``, rows · (``token`` · longest + ``row``) ≤ ``memory`` bytes. A row that
    does not fit by itself comes alone.
    """
    begin, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        rows = i - begin + 1
        full = rows > most if most else rows > MOST_ROWS or rows * (token * longest + row) > memory
        if full and i > begin:
            yield range(begin, i)
            begin, longest = i, length
    if lengths:
        yield range(begin, len(lengths))


def footprint(model: nn.Module, *, checkpointing: Checkpointing = "none") -> Footprint:
    """What a transformers model takes a token; ``checkpointing``: what is computed again in the backward pass, one
    layer at a time."""
    config: Any = model.config
    text: Any = config.get_text_config()
    width, layers = width_of(text), depth_of(text)
    heads = sized(text, "num_attention_heads", "n_head", default=1)
    inner = sized(text, "intermediate_size", "ffn_dim", "n_inner", default=4 * width)
    experts = sized(text, "num_experts_per_tok", "top_k_experts", default=1)
    inner = max(
        inner, experts * sized(text, "moe_intermediate_size", default=inner) if experts > 1 else inner
    )
    keys = sized(text, "num_key_value_heads", default=heads) * sized(text, "head_dim", default=width // heads)
    layer = (LAYER_STATES * width + LAYER_INNER * inner) * FLOAT
    kept = (TRAINED_STATES * width + TRAINED_INNER * inner) * FLOAT
    return Footprint(
        cached=2 * layers * keys * FLOAT,
        drawn=DRAWN_COPIES * sized(text, "vocab_size", default=2**15) * FLOAT,
        read=layer,
        trained={
            "none": layers * kept,
            "selective": layers * (PRODUCT_STATES * width + PRODUCT_INNER * inner) * FLOAT + kept,
            "full": layers * width * FLOAT + kept,
        }[checkpointing],
    )


def width_of(config: Any) -> int:
    """Of a token's state, by the config of a model of text."""
    return sized(config, "hidden_size", "n_embd", "d_model", "dim", default=1024)


def depth_of(config: Any) -> int:
    """Layers, by the same config."""
    return sized(config, "num_hidden_layers", "n_layer", "num_layers", default=24)


def sized(config: Any, *names: str, default: int) -> int:
    """The first of these fields that is a positive number; some models have one a layer: the largest."""
    for name in names:
        value = getattr(config, name, None)
        found = max(value, default=0) if isinstance(value, list | tuple) else value
        if isinstance(found, int) and found > 0:
            return found
    return default


def room_of(model: nn.Module, *, limit: int | None = None, checkpointing: Checkpointing = "none") -> Room:
    """A quarter of the memory of where the model is, but no more than half of what its weights, their gradients and
    Adam's moments leave; rounded down to a power of two, so that alike machines do alike.

    ``limit``: bytes that the process may use there (none: ``memory_limit``).
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    # Of sharded weights this process's part, and all of them once, as they are gathered to sample with.
    weights = sum(local(p).nbytes * (4 if p.requires_grad else 1) for p in parameters)
    weights += sum(p.nbytes for p in parameters if local(p) is not p)
    limit = limit or memory_limit(device)
    left = max(LEAST, min(limit // SHARE, (limit - weights) // 2))
    return Room(2 ** (left.bit_length() - 1), footprint(model, checkpointing=checkpointing))


def memory_limit(device: torch.device | str = "cpu") -> int:
    """Bytes that this process may use there: the accelerator's memory; else its share of the machine's, or of what a
    container may use, where several processes of one run are on it."""
    where = torch.device(device)
    if where.type == "cuda":
        return int(torch.cuda.get_device_properties(where).total_memory)
    total: int = min([psutil.virtual_memory().total, *container_limits()])
    return total // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))


def container_limits() -> Iterator[int]:
    """Bytes that control groups (version 2, then 1) allow."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            yield int(Path(file).read_text())
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
