"""A chunk of response positions with everybody's logits at them: all that one token's loss may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfteach.objective.batch import ScoredBatch

Temperature = float | Tensor
STUDENT = "student"


@dataclass(frozen=True)
class Positions:
    """P positions: sampled ``ids`` [P]; ``logits`` role → [P, V]; ``row`` and ``step`` [P] in the whole batch."""

    ids: Tensor
    row: Tensor
    step: Tensor
    logits: Mapping[str, Tensor]
    _log_probs: dict[tuple[str, float], Tensor] = field(default_factory=dict)

    def take(self, which: Tensor | slice) -> Positions:
        """Some of these positions: a bool mask or indices [P], or a slice (then the logits are views)."""
        logits = {role: logits[which] for role, logits in self.logits.items()}
        return Positions(self.ids[which], self.row[which], self.step[which], logits)

    def column(self, values: Tensor | float) -> Tensor | float:
        """What a per-batch quantity is at these positions: a number as it is, [N] by row, [N, T] by position."""
        if not isinstance(values, Tensor) or values.dim() == 0:
            return values
        return values[self.row] if values.dim() == 1 else values[self.row, self.step]

    def divided(self, values: Tensor, temperature: Temperature) -> Tensor:
        """[P, V] values over a temperature (number, [N] or [N, T])."""
        if isinstance(temperature, Tensor):
            return values / torch.as_tensor(self.column(temperature)).reshape(-1, 1).to(values.dtype)
        return values if temperature == 1 else values / temperature

    def log_probs(self, role: str = STUDENT, temperature: Temperature = 1.0) -> Tensor:
        """[P, V] log-probs of ``role`` ("student" or a teacher's name) at a temperature (number, [N] or [N, T])."""
        if isinstance(temperature, Tensor):
            return log_softmax(self.divided(self.logits[role], temperature))
        key = (role, float(temperature))
        if key not in self._log_probs:
            self._log_probs[key] = log_softmax(self.divided(self.logits[role], temperature))
        return self._log_probs[key]

    def sampled(self, role: str = STUDENT, temperature: Temperature = 1.0) -> Tensor:
        """[P] log-prob (nats) of the sampled token under ``role``."""
        return self.log_probs(role, temperature).gather(-1, self.ids.unsqueeze(-1)).squeeze(-1)


def log_softmax(logits: Tensor) -> Tensor:
    """Over the last dimension. Torch's own adds up in sequence on a CPU, which at V = 262k costs a digit."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(-1, keepdim=True).log())


ColumnFunction = Callable[[Positions], Tensor]


def chunk_length(widths: list[int], itemsize: int, budget_bytes: int) -> int:
    """How many positions fit a budget when each role's logits are alive; of many, a multiple of 16."""
    length = max(1, budget_bytes // max(1, itemsize * sum(widths)))
    return length - length % 16 if length > 16 else length


@dataclass(frozen=True)
class Chunk:
    """Some selected positions of a batch, before any logits exist: where they stand in the micro-batch's
    [n, T] columns, their rows in the whole batch and their tokens.
    """

    place: tuple[Tensor, Tensor]
    row: Tensor
    ids: Tensor

    def take(self, which: Tensor | slice) -> Chunk:
        n, t = self.place
        return Chunk((n[which], t[which]), self.row[which], self.ids[which])


def chunks(batch: ScoredBatch, select: Tensor, length: int) -> Iterator[Chunk]:
    """The positions where ``select`` [n, t] is True, ``length`` at a time, in row order."""
    n, t = select.nonzero(as_tuple=True)
    rows = batch.rows if batch.rows is not None else torch.arange(len(select), device=select.device)
    everything = Chunk((n, t), rows[n], batch.columns.ids[n, t])
    for start in range(0, len(n), length):
        yield everything.take(slice(start, start + length))


def shared_width(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Refuse different vocabulary widths: the cure is ``Head.vocabulary``, not silent truncation."""
    widths = {role: tensor.shape[-1] for role, tensor in logits.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"vocabulary widths differ: {widths}; set Head.vocabulary to the tokenizer's width")
    return dict(logits)
