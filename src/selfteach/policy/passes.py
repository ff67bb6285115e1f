"""Rows laid out for passes through a model: padded, packed into one row, or behind contexts that they share.

Each layout gives the [P, d] states that predict its rows' written tokens, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.policy.prefix import to_read, to_write

Device = torch.device | str | None


class Laid(Protocol):
    """Rows laid out."""

    @property
    def passes(self) -> int:
        """How often the network is called for its states."""

    def states(self, network: Any) -> Float[Tensor, "P d"]: ...

    def read(self) -> Int[Tensor, "P"]:
        """The token at each of the wanted states' places, which is the one before that which it predicts."""


@dataclass(frozen=True)
class Row:
    """One row to score: a ``context``, what has to be read of the ``response`` behind it, and the ``steps`` of the
    response whose tokens are to be predicted. The last of them predicts and is not read."""

    context: Sequence[int]
    response: Sequence[int]
    steps: Sequence[int]

    @property
    def ids(self) -> list[int]:
        return [*self.context, *self.response]

    @property
    def length(self) -> int:
        return len(self.context) + len(self.response)

    @property
    def places(self) -> list[int]:
        """Of the row's tokens: those whose states are wanted."""
        return [len(self.context) - 1 + step for step in self.steps]


def row_of(context: Sequence[int], response: Sequence[int], written: Sequence[bool] | None = None) -> Row:
    """ValueError for an empty context, since nothing would predict the first token."""
    if not context:
        raise ValueError("prompts: each needs at least one token, to predict the first response token from")
    steps = list(range(len(response))) if written is None else [t for t, own in enumerate(written) if own]
    return Row(context, response[: steps[-1]] if steps else (), steps)


@dataclass(frozen=True)
class Padded:
    """n rows, padded on the right: ``index`` [P] into their n · L states."""

    input_ids: Int[Tensor, "n L"]
    attention_mask: Int[Tensor, "n L"]
    index: Int[Tensor, "P"]
    passes: ClassVar[int] = 1

    @classmethod
    def of(cls, rows: Sequence[Row], pad_id: int, device: Device = None) -> Padded:
        width = max(row.length for row in rows)
        return cls(
            right([row.ids for row in rows], pad_id, width).to(device),
            right([[1] * row.length for row in rows], 0, width).to(device),
            flat([[i * width + place for place in row.places] for i, row in enumerate(rows)]).to(device),
        )

    def states(self, network: Any) -> Float[Tensor, "P d"]:
        hidden: Tensor = network(
            input_ids=self.input_ids, attention_mask=self.attention_mask, use_cache=False
        )[0]
        return hidden.flatten(0, 1).index_select(0, self.index)

    def read(self) -> Int[Tensor, "P"]:
        return self.input_ids.flatten().index_select(0, self.index)


@dataclass(frozen=True)
class Packed:
    """All rows in one, without padding: ``position_ids`` begin anew with each, ``begins`` [n + 1] says where they do.

    Masks are made of the one, flash attention reads the other, which reaches it in models whose attention takes what
    is handed to the model (``packs``). ``longest``: tokens of the longest row.
    """

    input_ids: Int[Tensor, "1 L"]
    position_ids: Int[Tensor, "1 L"]
    begins: Int[Tensor, "n_plus_1"]
    longest: int
    index: Int[Tensor, "P"]
    passes: ClassVar[int] = 1

    @classmethod
    def of(cls, rows: Sequence[Row], pad_id: int, device: Device = None) -> Packed:
        begins = [0]
        for row in rows:
            begins.append(begins[-1] + row.length)
        return cls(
            flat([row.ids for row in rows])[None].to(device),
            flat([range(row.length) for row in rows])[None].to(device),
            torch.tensor(begins, dtype=torch.int32).to(device),
            max(row.length for row in rows),
            flat([[begins[i] + place for place in row.places] for i, row in enumerate(rows)]).to(device),
        )

    def states(self, network: Any) -> Float[Tensor, "P d"]:
        hidden: Tensor = network(
            input_ids=self.input_ids, position_ids=self.position_ids, use_cache=False,
            cu_seq_lens_q=self.begins, cu_seq_lens_k=self.begins,
            max_length_q=self.longest, max_length_k=self.longest,
        )[0]  # fmt: skip
        return hidden[0].index_select(0, self.index)

    def read(self) -> Int[Tensor, "P"]:
        return self.input_ids.flatten().index_select(0, self.index)


@dataclass(frozen=True)
class Reading:
    """n responses, padded on the right, behind contexts: row i reads context ``rows[i]``."""

    rows: Int[Tensor, "n"]
    input_ids: Int[Tensor, "n T"]
    position_ids: Int[Tensor, "n T"]
    attention_mask: Int[Tensor, "n Lc_plus_T"]


@dataclass(frozen=True)
class Shared:
    """C contexts, padded on the left so that a response stands as far from their tokens as it is, and the responses
    behind them in any number of ``readings``; ``index`` [P] into the contexts' last states and all readings'."""

    input_ids: Int[Tensor, "C Lc"]
    position_ids: Int[Tensor, "C Lc"]
    attention_mask: Int[Tensor, "C Lc"]
    readings: Sequence[Reading]
    index: Int[Tensor, "P"]

    @classmethod
    def of(
        cls, rows: Sequence[Row], readings: Sequence[Sequence[int]], pad_id: int, device: Device = None
    ) -> Shared:
        """``readings``: which rows each of them holds; those with nothing to read need none."""
        contexts = list(dict.fromkeys(tuple(row.context) for row in rows))
        place = {context: c for c, context in enumerate(contexts)}
        ids = left(contexts, pad_id)
        mask = left([[1] * len(context) for context in contexts], 0)
        begins: dict[int, int] = {}
        at, laid = len(contexts), []
        for held in readings:
            some = [rows[i] for i in held]
            width = max(len(row.response) for row in some)
            begins |= {i: at + n * width for n, i in enumerate(held)}
            at += len(held) * width
            which = torch.tensor([place[tuple(row.context)] for row in some])
            own = right([[1] * len(row.response) for row in some], 0, width)
            starts = torch.tensor([len(row.context) for row in some])
            laid.append(
                Reading(
                    which.to(device),
                    right([row.response for row in some], pad_id, width).to(device),
                    (starts[:, None] + torch.arange(width)).to(device),
                    torch.cat([mask[which], own], dim=1).to(device),
                )
            )
        index = [
            [place[tuple(row.context)] if step == 0 else begins[i] + step - 1 for step in row.steps]
            for i, row in enumerate(rows)
        ]
        positions = position_ids_of(mask).to(device)
        return cls(ids.to(device), positions, mask.to(device), laid, flat(index).to(device))

    @property
    def passes(self) -> int:
        return 1 + len(self.readings)

    def states(self, network: Any) -> Float[Tensor, "P d"]:
        written = to_write(network)
        hidden: Tensor = network(
            input_ids=self.input_ids, position_ids=self.position_ids, attention_mask=self.attention_mask,
            past_key_values=written, use_cache=True,
        )[0]  # fmt: skip
        found = [hidden[:, -1]]
        for one in self.readings:
            hidden = network(
                input_ids=one.input_ids, position_ids=one.position_ids, attention_mask=one.attention_mask,
                past_key_values=to_read(written, one.rows, self.input_ids.shape[1]), use_cache=True,
            )[0]  # fmt: skip
            found.append(hidden.flatten(0, 1))
        return torch.cat(found).index_select(0, self.index)

    def read(self) -> Int[Tensor, "P"]:
        behind = [one.input_ids.flatten() for one in self.readings]
        return torch.cat([self.input_ids[:, -1], *behind]).index_select(0, self.index)


def right(rows: Sequence[Sequence[int]], value: int, width: int) -> Int[Tensor, "n L"]:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def left(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "n L"]:
    width = max(map(len, rows))
    return torch.tensor([[*[value] * (width - len(row)), *row] for row in rows], dtype=torch.long)


def position_ids_of(mask: Int[Tensor, "n L"]) -> Int[Tensor, "n L"]:
    """Of rows padded on the left: how many tokens stand before each; 0 for padding."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def flat(parts: Sequence[Sequence[int]]) -> Int[Tensor, "P"]:
    return torch.tensor([one for part in parts for one in part], dtype=torch.long)
