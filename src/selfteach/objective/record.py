"""Columns of numbers measured at positions, on the logits that are at hand or on logits made for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
CHUNK_BYTES_ON_CUDA = 2**28
"""There a chunk is one block, and what is made of its logits is several times as large."""


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


Places = Bool[Tensor, "P"] | None
"""Which of a micro-batch's positions; None: all of them."""


class Recorder:
    """Keeps per-token columns [P] of the positions as they come by, NaN where nobody looked."""

    def __init__(self, batch: ScoredBatch, watch: Mapping[str, Quantity]) -> None:
        self.batch = batch
        self.beside, self.apart = dict(watch), dict[str, Quantity]()
        self.columns: dict[str, Float[Tensor, "P"]] = {}
        self.places: dict[tuple[tuple[str, ...], int], Places] = {}
        for name, quantity in watch.items():
            self.column(name)
            if self._key(quantity) not in self.places:
                self.places[self._key(quantity)] = self._places(quantity)

    @staticmethod
    def _key(quantity: Quantity) -> tuple[tuple[str, ...], int]:
        return quantity.roles, id(quantity.where)

    def _places(self, quantity: Quantity) -> Places:
        seen = self.batch.columns.seen(quantity.roles)
        places = self.batch.layout.at(seen if quantity.where is None else seen & quantity.where)
        return None if places.all() else places

    def set_apart(self, visited: Collection[str], wanted: Bool[Tensor, "P"]) -> None:
        """The terms will visit these roles at these positions [P]: what reads another role, at fewer than half of them,
        is measured by itself, so that this role's logits are made nowhere else."""
        for name, quantity in list(self.beside.items()):
            places = self.places[self._key(quantity)]
            few = places is not None and 2 * int(places.sum()) < int(wanted.sum())
            if few and not set(quantity.roles) <= set(visited):
                self.apart[name] = self.beside.pop(name)

    @property
    def roles(self) -> list[str]:
        """The roles that are read beside the terms."""
        return roles_of(self.beside)

    def column(self, name: str) -> Float[Tensor, "P"]:
        if name not in self.columns:
            states = self.batch.roles[STUDENT].states
            self.columns[name] = states.new_full((len(self.batch.layout),), torch.nan, dtype=self.batch.dtype)
        return self.columns[name]

    def put(self, name: str, chunk: Chunk, values: Shaped[Tensor, "p"]) -> None:
        column = self.column(name)
        column[chunk.place] = values.detach().to(column.dtype)

    def look(self, chunk: Chunk, at: Positions) -> None:
        """Measure at these positions what is watched beside the terms."""
        self._look(self.beside, chunk, at)

    @torch.no_grad()
    def _look(self, watch: Mapping[str, Quantity], chunk: Chunk, at: Positions) -> None:
        parts: dict[tuple[tuple[str, ...], int], tuple[Chunk, Positions]] = {}
        for name, quantity in watch.items():
            key = self._key(quantity)
            if key not in parts:
                places = self.places[key]
                here = None if places is None else places[chunk.place]
                parts[key] = (
                    (chunk, at) if here is None or bool(here.all()) else (chunk.take(here), at.take(here))
                )
            where, positions = parts[key]
            if len(where.place):
                self.put(name, where, quantity.function(positions))

    def watch_the_rest(self, visited: Bool[Tensor, "P"], chunk_bytes: int | None) -> None:
        """Measure at the positions [P] that no term has visited, and what was set apart."""
        self._walk(self.beside, ~visited, chunk_bytes)
        self._walk(self.apart, torch.ones_like(visited), chunk_bytes)

    def _walk(
        self, watch: Mapping[str, Quantity], select: Bool[Tensor, "P"], chunk_bytes: int | None
    ) -> None:
        if not watch:
            return
        watched = torch.zeros_like(select)
        for key in {self._key(quantity) for quantity in watch.values()}:
            places = self.places[key]
            watched |= True if places is None else places
        roles = roles_of(watch)
        length = chunk_length(self.batch, roles, budget(self.batch, chunk_bytes))
        for chunk in chunks(self.batch, select & watched, length):
            at = positions_of(self.batch, chunk, roles)
            for which in blocks(at):
                self._look(watch, chunk.take(which), at.take(which))


def roles_of(watch: Mapping[str, Quantity]) -> list[str]:
    """The roles that the quantities read, each once."""
    return list(dict.fromkeys(role for quantity in watch.values() for role in quantity.roles))
