"""Sum the terms of a loss in chunks of positions, and never hold [N·T, V] at once.

The gradient is taken in the forward pass, chunk by chunk, and handed to autograd as one node: whatever lies
below the hidden states (a transformer, under DDP or not) and the head's own tensors get exact gradients while
at most one chunk's logits are alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from selfteach.objective.batch import ScoredBatch
from selfteach.objective.positions import (
    STUDENT,
    Chunk,
    ColumnFunction,
    Positions,
    chunk_length,
    chunks,
    shared_width,
)
from selfteach.objective.terms import Term

CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Weighted:
    """A term with its coefficients [N, T] fixed over the whole batch."""

    term: Term
    coefficients: Tensor


@dataclass(frozen=True)
class Outcome:
    """``loss`` (0-dim, differentiable); ``terms`` name → its value; ``token`` name → [n, T] columns, no gradient."""

    loss: Tensor
    terms: Mapping[str, Tensor]
    token: Mapping[str, Tensor] = field(default_factory=dict)


def evaluate_terms(
    batch: ScoredBatch,
    weighted: Sequence[Weighted],
    *,
    watch: Mapping[str, ColumnFunction] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Outcome:
    """The loss of ``batch`` and its gradient path to ``batch.student``.

    ``watch`` adds per-token columns (no gradient) measured on the same logits, at every written token.
    Columns are NaN where a position was not looked at.
    """
    _refuse_duplicate_names(weighted)
    local = [w if batch.rows is None else Weighted(w.term, w.coefficients[batch.rows]) for w in weighted]
    mask = batch.columns.mask
    wanted = torch.zeros_like(mask)
    for w in local:
        wanted |= w.coefficients[:, : mask.shape[1]] != 0
    record = _Recorder(batch, watch or {})
    work = _Work(batch, local, wanted, record, chunk_bytes)
    loss = _SumOfChunks.apply(work, batch.student.hidden, *batch.student.head.tensors)
    record.watch_the_rest(wanted, chunk_bytes)
    return Outcome(loss=loss, terms=work.values, token=record.columns)


def measure(
    batch: ScoredBatch, columns: Mapping[str, ColumnFunction], *, chunk_bytes: int = CHUNK_BYTES
) -> dict[str, Tensor]:
    """[n, T] columns at every written token, without gradient (the statistics phase); zero elsewhere."""
    record = _Recorder(batch, columns)
    record.watch_the_rest(torch.zeros_like(batch.columns.mask), chunk_bytes)
    return {name: torch.nan_to_num(column, nan=0.0) for name, column in record.columns.items()}


def positions_of(
    batch: ScoredBatch, chunk: Chunk, student_logits: Tensor, teachers: Sequence[str]
) -> Positions:
    """Project the named teachers at a chunk and put them beside the student."""
    logits = {STUDENT: student_logits}
    with torch.no_grad():
        for name in teachers:
            scored = batch.teachers[name]
            hidden = scored.hidden.reshape(-1, scored.hidden.shape[-1])[chunk.flat]
            logits[name] = scored.head.logits(hidden.to(student_logits.device)).detach()
    return Positions(chunk.ids, chunk.row, chunk.step, shared_width(logits))


class _Recorder:
    """Keeps per-token columns of the positions as they come by."""

    def __init__(self, batch: ScoredBatch, watch: Mapping[str, ColumnFunction]) -> None:
        self.batch, self.watch = batch, watch
        self.columns: dict[str, Tensor] = {}

    def put(self, name: str, chunk: Chunk, values: Tensor) -> None:
        if name not in self.columns:
            shape = self.batch.columns.ids.shape
            self.columns[name] = torch.full(shape, torch.nan, dtype=values.dtype, device=values.device)
        self.columns[name].view(-1)[chunk.flat] = values.detach()

    def look(self, chunk: Chunk, at: Positions) -> None:
        with torch.no_grad():
            for name, function in self.watch.items():
                self.put(name, chunk, function(at))

    def watch_the_rest(self, seen: Tensor, chunk_bytes: int) -> None:
        """Measure the written tokens that no term has visited."""
        if not self.watch:
            return
        batch = self.batch
        teachers = list(batch.teachers)
        hidden = batch.student.hidden.detach()
        hidden = hidden.reshape(-1, hidden.shape[-1])
        with torch.no_grad():
            for chunk in chunks(batch, batch.columns.mask & ~seen, _length(batch, teachers, chunk_bytes)):
                logits = batch.student.head.logits(hidden[chunk.flat])
                self.look(chunk, positions_of(batch, chunk, logits, teachers))


@dataclass
class _Work:
    """What the autograd node does: walk the chunks, return the loss and its gradients."""

    batch: ScoredBatch
    weighted: Sequence[Weighted]
    wanted: Tensor
    record: _Recorder
    chunk_bytes: int
    values: dict[str, Tensor] = field(default_factory=dict)

    def run(self, hidden: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        head, batch = self.batch.student.head, self.batch
        teachers = list(batch.teachers) if self.record.watch else _teachers_of(self.weighted)
        flat = hidden.reshape(-1, hidden.shape[-1])
        inputs = [flat, *tensors]
        wants = [t.requires_grad for t in (hidden, *tensors)]
        sums: list[Tensor | None] = [
            torch.zeros_like(t, dtype=_accumulation(t)) if want else None
            for t, want in zip(inputs, wants, strict=True)
        ]
        total = torch.zeros((), dtype=_accumulation(flat), device=flat.device)
        for w in self.weighted:
            self.values[w.term.name] = torch.zeros_like(total)
        for chunk in chunks(batch, self.wanted, _length(batch, teachers, self.chunk_bytes)):
            leaves = [
                t.detach().requires_grad_(want)
                for t, want in zip((flat[chunk.flat], *tensors), wants, strict=True)
            ]
            with torch.enable_grad():
                at = positions_of(batch, chunk, head.logits(leaves[0], leaves[1:]), teachers)
                loss = self.chunk_loss(chunk, at)
            total += loss.detach()
            if any(wants):
                self.accumulate(loss, leaves, chunk, sums)
            self.record.look(chunk, at)
        if sums[0] is not None:
            sums[0] = sums[0].reshape(hidden.shape)
        return total, sums

    def chunk_loss(self, chunk: Chunk, at: Positions) -> Tensor:
        loss: Tensor | float = 0.0
        for w in self.weighted:
            coefficients = w.coefficients.view(-1)[chunk_index(w.coefficients, chunk, self.batch)]
            active = coefficients != 0
            token_loss = w.term.token_loss(at)
            # A position this term does not select may be −inf or undefined for it: cut it out, do not multiply it.
            part = torch.where(
                active, coefficients.to(token_loss.dtype) * token_loss.where(active, 0), 0
            ).sum()
            self.values[w.term.name] += part.detach()
            self.record.put(f"loss/{w.term.name}", chunk, token_loss.detach().where(active, torch.nan))
            self.record.put(f"weight/{w.term.name}", chunk, coefficients.to(token_loss.dtype))
            loss = loss + part
        return torch.as_tensor(loss)

    def accumulate(self, loss: Tensor, leaves: list[Tensor], chunk: Chunk, sums: list[Tensor | None]) -> None:
        wanted = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
        grads = torch.autograd.grad(loss, [leaves[i] for i in wanted], allow_unused=True)
        for i, grad in zip(wanted, grads, strict=True):
            target = sums[i]
            if grad is None or target is None:
                continue
            if i == 0:
                target[chunk.flat] = grad.to(target.dtype)
            else:
                target += grad


class _SumOfChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, hidden: Tensor, *tensors: Tensor) -> Tensor:
        loss, grads = work.run(hidden, tensors)
        inputs = (hidden, *tensors)
        ctx.present = [g is not None for g in grads]
        ctx.save_for_backward(*(g.to(t.dtype) for g, t in zip(grads, inputs, strict=True) if g is not None))
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        return None, *(next(saved) * upstream[0] if present else None for present in ctx.present)


def chunk_index(column: Tensor, chunk: Chunk, batch: ScoredBatch) -> Tensor:
    """Flat indices of a chunk into a local [n, T'] column, whose T' may exceed the micro-batch's own T."""
    width = batch.columns.ids.shape[1]
    return torch.div(chunk.flat, width, rounding_mode="floor") * column.shape[1] + chunk.step


def _accumulation(t: Tensor) -> torch.dtype:
    return torch.float32 if t.dtype in (torch.bfloat16, torch.float16) else t.dtype


def _teachers_of(weighted: Sequence[Weighted]) -> list[str]:
    return list(dict.fromkeys(name for w in weighted for name in w.term.teachers))


def _length(batch: ScoredBatch, teachers: Sequence[str], budget: int) -> int:
    heads = [batch.student, *(batch.teachers[name] for name in teachers)]
    widths = [s.head.weight.shape[0] if s.head.weight is not None else s.hidden.shape[-1] for s in heads]
    return chunk_length(widths, max(4, batch.student.hidden.element_size()), budget)


def _refuse_duplicate_names(weighted: Sequence[Weighted]) -> None:
    names = [w.term.name for w in weighted]
    doubles = {n for n in names if names.count(n) > 1}
    if doubles:
        raise ValueError(f"two terms are called {sorted(doubles)}: give each term its own name")
