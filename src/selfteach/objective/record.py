"""Columns of numbers measured at positions, on the logits that are at hand or on logits made for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from selfteach.objective.batch import STUDENT, ScoredBatch
from selfteach.objective.positions import (
    Chunk,
    Positions,
    Quantity,
    blocks,
    chunk_length,
    chunks,
    positions_of,
)

CHUNK_BYTES = 96 * 2**20
CHUNK_BYTES_ON_CUDA = 2**30


def measure(
    batch: ScoredBatch, wanted: Mapping[str, Quantity], *, chunk_bytes: int | None = None
) -> dict[str, Float[Tensor, "P"]]:
    """[P] columns over the batch's positions, without gradient (the statistics phase).

    NaN where a role that the quantity reads saw nothing. ValueError: the batch lacks a role.
    """
    record = Recorder(batch, wanted)
    with torch.autocast(batch.device.type, enabled=False):
        nowhere = torch.zeros(len(batch.layout), dtype=torch.bool, device=batch.layout.row.device)
        record.watch_the_rest(nowhere, chunk_bytes)
    return record.columns


def budget(batch: ScoredBatch, chunk_bytes: int | None) -> int:
    """Bytes of logits that may be alive at a time."""
    if chunk_bytes is not None:
        return chunk_bytes
    return CHUNK_BYTES_ON_CUDA if batch.device.type == "cuda" else CHUNK_BYTES


class Recorder:
    """Keeps per-token columns [P] of the positions as they come by, NaN where nobody looked."""

    def __init__(self, batch: ScoredBatch, watch: Mapping[str, Quantity]) -> None:
        self.batch, self.watch = batch, watch
        self.columns: dict[str, Float[Tensor, "P"]] = {}
        self.seen: dict[tuple[str, ...], Bool[Tensor, "P"] | None] = {}
        for name, quantity in watch.items():
            self.column(name)
            if quantity.roles not in self.seen:
                seen = batch.layout.at(batch.columns.seen(quantity.roles))
                self.seen[quantity.roles] = None if seen.all() else seen

    @property
    def roles(self) -> list[str]:
        """The roles that the watched quantities read."""
        return list(dict.fromkeys(role for quantity in self.watch.values() for role in quantity.roles))

    def column(self, name: str) -> Float[Tensor, "P"]:
        if name not in self.columns:
            states = self.batch.roles[STUDENT].states
            self.columns[name] = states.new_full((len(self.batch.layout),), torch.nan, dtype=self.batch.dtype)
        return self.columns[name]

    def put(self, name: str, chunk: Chunk, values: Shaped[Tensor, "p"]) -> None:
        column = self.column(name)
        column[chunk.place] = values.detach().to(column.dtype)

    @torch.no_grad()
    def look(self, chunk: Chunk, at: Positions) -> None:
        """Measure what is watched at these positions, where the roles it reads saw their views."""
        parts: dict[tuple[str, ...], tuple[Chunk, Positions]] = {}
        for name, quantity in self.watch.items():
            if quantity.roles not in parts:
                seen = self.seen[quantity.roles]
                here = None if seen is None else seen[chunk.place]
                parts[quantity.roles] = (chunk, at) if here is None else (chunk.take(here), at.take(here))
            where, positions = parts[quantity.roles]
            if len(where.place):
                self.put(name, where, quantity.function(positions))

    def watch_the_rest(self, visited: Bool[Tensor, "P"], chunk_bytes: int | None) -> None:
        """Measure at the positions [P] that no term has visited."""
        if not self.watch:
            return
        roles = self.roles
        length = chunk_length(self.batch, roles, budget(self.batch, chunk_bytes))
        for chunk in chunks(self.batch, ~visited, length):
            at = positions_of(self.batch, chunk, roles)
            for which in blocks(at):
                self.look(chunk.take(which), at.take(which))
