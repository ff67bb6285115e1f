"""Sum the terms of a loss in chunks of positions, and never hold [N·T, V] at once.

The gradient is taken in the forward pass, chunk by chunk, and handed to autograd as one node: whatever lies
below the hidden states (a transformer, under DDP or not) and the head's own tensors get exact gradients while
at most one chunk's logits are alive. A chunk is what the matrix products see; within it the gradient in the
logits is taken block by block, small enough for a processor's cache, and takes the logits' place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
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

CHUNK_BYTES = 96 * 2**20
CHUNK_BYTES_ON_CUDA = 2**30
BLOCK_BYTES = 4 * 2**20


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
    chunk_bytes: int | None = None,
    compiler: str | None = None,
) -> Outcome:
    """The loss of ``batch`` and its gradient path to ``batch.student``.

    ``watch`` adds per-token columns (no gradient) measured on the same logits, at every written token.
    Columns are NaN where a position was not looked at. ``chunk_bytes`` bounds the logits of student and
    teachers alive at a time (None: 96 MiB, on CUDA 1 GiB). ``compiler``: a backend of torch.compile, such as
    "inductor", for the closed-form gradients (None: none). The loss can be differentiated once.
    """
    _refuse_duplicate_names(weighted)
    terms, wanted = _local(batch, weighted)
    trained = (batch.student.hidden, *batch.student.head.tensors)
    differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in trained)
    record = _Recorder(batch, watch or {})
    work = _Work(batch, terms, wanted, record, chunk_bytes, differentiate, _closed_form(compiler))
    with torch.autocast(batch.student.hidden.device.type, enabled=False):
        loss = _SumOfChunks.apply(work, *trained)
        record.watch_the_rest(wanted, chunk_bytes)
    return Outcome(loss=loss, terms=work.values, token=record.columns)


def measure(
    batch: ScoredBatch, columns: Mapping[str, ColumnFunction], *, chunk_bytes: int | None = None
) -> dict[str, Tensor]:
    """[n, T] columns at every written token, without gradient (the statistics phase); zero elsewhere."""
    record = _Recorder(batch, columns)
    with torch.autocast(batch.student.hidden.device.type, enabled=False):
        record.watch_the_rest(torch.zeros_like(batch.columns.mask), chunk_bytes)
    return {name: torch.nan_to_num(column, nan=0.0) for name, column in record.columns.items()}


Gradient = tuple[Tensor, Tensor]
"""([P] losses, [P, V] their gradients in the student's logits)"""


@cache
def _closed_form(compiler: str | None) -> Callable[[Term, Positions], Gradient | None]:
    def logit_gradient(term: Term, at: Positions) -> Gradient | None:
        return term.logit_gradient(at)

    return logit_gradient if compiler is None else torch.compile(logit_gradient, backend=compiler)


def by_autograd(term: Term, at: Positions) -> Gradient:
    """What ``Term.logit_gradient`` gives, found by autograd: for terms without a closed form, and its reference."""
    logits = at.logits[STUDENT].detach().requires_grad_()
    with torch.enable_grad():
        losses = term.token_loss(Positions(at.ids, at.row, at.step, {**at.logits, STUDENT: logits}))
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient


@torch.no_grad()
def positions_of(batch: ScoredBatch, chunk: Chunk, teachers: Sequence[str]) -> Positions:
    """Project the student and the named teachers at a chunk."""
    logits = {}
    for role, scored in {STUDENT: batch.student, **{name: batch.teachers[name] for name in teachers}}.items():
        states = scored.hidden[chunk.place].to(batch.student.hidden.device)
        logits[role] = scored.head.logits(states)
    return Positions(chunk.ids, chunk.row, chunk.place[1], shared_width(logits))


def blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of a chunk's positions. A GPU takes the chunk whole; a CPU is faster on what its cache holds."""
    length = len(logits) if logits.is_cuda else BLOCK_BYTES // (logits.element_size() * logits.shape[1])
    for start in range(0, len(logits), max(1, length)):
        yield slice(start, start + max(1, length))


class _Recorder:
    """Keeps per-token columns of the positions as they come by."""

    def __init__(self, batch: ScoredBatch, watch: Mapping[str, ColumnFunction]) -> None:
        self.batch, self.watch = batch, watch
        self.columns: dict[str, Tensor] = {}

    def column(self, name: str) -> Tensor:
        if name not in self.columns:
            hidden = self.batch.student.hidden
            self.columns[name] = hidden.new_full(hidden.shape[:2], torch.nan, dtype=_accumulation(hidden))
        return self.columns[name]

    def put(self, name: str, chunk: Chunk, values: Tensor) -> None:
        column = self.column(name)
        column[chunk.place] = values.detach().to(column.dtype)

    def look(self, chunk: Chunk, at: Positions) -> None:
        with torch.no_grad():
            for name, function in self.watch.items():
                self.put(name, chunk, function(at))

    def watch_the_rest(self, seen: Tensor, chunk_bytes: int | None) -> None:
        """Measure the written tokens that no term has visited."""
        if not self.watch:
            return
        teachers = list(self.batch.teachers)
        length = _length(self.batch, teachers, chunk_bytes)
        for chunk in chunks(self.batch, self.batch.columns.mask & ~seen, length):
            at = positions_of(self.batch, chunk, teachers)
            for which in blocks(at.logits[STUDENT]):
                self.look(chunk.take(which), at.take(which))


@dataclass(frozen=True)
class _Local:
    """A term with its coefficients [n, T] on the micro-batch; ``everywhere``: none of those visited is 0."""

    term: Term
    coefficients: Tensor
    everywhere: bool


@dataclass
class _Work:
    """What the autograd node does: walk the chunks, return the loss and its gradients."""

    batch: ScoredBatch
    terms: Sequence[_Local]
    wanted: Tensor
    record: _Recorder
    chunk_bytes: int | None
    differentiate: bool
    closed_form: Callable[[Term, Positions], Gradient | None]
    values: dict[str, Tensor] = field(default_factory=dict)

    def run(self, hidden: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        zero = hidden.new_zeros((), dtype=_accumulation(hidden))
        teachers = list(self.batch.teachers) if self.record.watch else _teachers_of(self.terms)
        sums = [
            torch.zeros_like(t, dtype=_accumulation(t)) if self.differentiate and t.requires_grad else None
            for t in (hidden, *tensors)
        ]
        for local in self.terms:
            self.values[local.term.name] = zero.clone()
            self.record.column(f"loss/{local.term.name}")
        for chunk in chunks(self.batch, self.wanted, _length(self.batch, teachers, self.chunk_bytes)):
            self.project(chunk, hidden, teachers, sums)
        return sum(self.values.values(), zero), sums

    def project(
        self, chunk: Chunk, hidden: Tensor, teachers: Sequence[str], sums: Sequence[Tensor | None]
    ) -> None:
        """Take one chunk from hidden states to logits to their gradient, and back into ``sums``."""
        head, at = self.batch.student.head, positions_of(self.batch, chunk, teachers)
        logits = at.logits[STUDENT]
        for which in blocks(logits):
            gradient = self.block(chunk.take(which), at.take(which))
            if gradient is not None:
                logits[which] = head.before_softcap(gradient, logits[which])
        if self.differentiate:
            states = head.pull_back(logits, hidden[chunk.place], sums[1:])
            if sums[0] is not None:
                sums[0][chunk.place] = states.to(sums[0].dtype)

    def block(self, chunk: Chunk, at: Positions) -> Tensor | None:
        """Let every term visit a block; [P, V] the gradient in its student logits, if one is wanted."""
        total: Tensor | None = None
        for local in self.terms:
            weight = local.coefficients[chunk.place].to(at.logits[STUDENT].dtype)
            self.record.put(f"weight/{local.term.name}", chunk, weight)
            gradient = self.visit(local, chunk, at, weight)
            if gradient is not None:
                total = gradient if total is None else total.add_(gradient)
        self.record.look(chunk, at)
        return total

    def visit(self, local: _Local, chunk: Chunk, at: Positions, weight: Tensor) -> Tensor | None:
        """What one term adds to a block. A position it does not select may be −inf or undefined for it."""
        if not local.everywhere:
            chosen = weight != 0
            if not chosen.any():
                return None
            part = self.visit(
                replace(local, everywhere=True), chunk.take(chosen), at.take(chosen), weight[chosen]
            )
            return None if part is None else torch.zeros_like(at.logits[STUDENT]).index_put_((chosen,), part)
        if self.differentiate:
            losses, gradient = self.closed_form(local.term, at) or by_autograd(local.term, at)
            gradient = gradient * weight.unsqueeze(1)
        else:
            losses, gradient = local.term.token_loss(at), None
        self.values[local.term.name] += (weight * losses).sum()
        self.record.put(f"loss/{local.term.name}", chunk, losses)
        return gradient


class _SumOfChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, hidden: Tensor, *tensors: Tensor) -> Tensor:
        loss, ctx.sums = work.run(hidden, tensors)
        ctx.dtypes = [t.dtype for t in (hidden, *tensors)]
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        if ctx.sums is None:
            raise RuntimeError("this loss has been differentiated already: its gradients were handed out")
        # Handed out, not copied: beside a wide vocabulary the head's gradient is the largest tensor there is.
        sums, ctx.sums = ctx.sums, None
        grads = (s if s is None else s.mul_(upstream[0]) for s in sums)
        return None, *(g if g is None else g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))


def _local(batch: ScoredBatch, weighted: Sequence[Weighted]) -> tuple[list[_Local], Tensor]:
    """The terms on this micro-batch, and the positions [n, T] any of them selects."""
    width = batch.columns.ids.shape[1]
    rows = slice(None) if batch.rows is None else batch.rows
    coefficients = [w.coefficients[rows, :width] for w in weighted]
    wanted = torch.zeros_like(batch.columns.mask)
    for c in coefficients:
        wanted |= c != 0
    return [
        _Local(w.term, c, everywhere=bool(((c != 0) == wanted).all()))
        for w, c in zip(weighted, coefficients, strict=True)
    ], wanted


def _accumulation(t: Tensor) -> torch.dtype:
    return torch.float32 if t.dtype in (torch.bfloat16, torch.float16) else t.dtype


def _teachers_of(terms: Sequence[_Local]) -> list[str]:
    return list(dict.fromkeys(name for local in terms for name in local.term.teachers))


def _length(batch: ScoredBatch, teachers: Sequence[str], budget: int | None) -> int:
    heads = [batch.student, *(batch.teachers[name] for name in teachers)]
    widths = [s.head.weight.shape[0] if s.head.weight is not None else s.hidden.shape[-1] for s in heads]
    if budget is None:
        budget = CHUNK_BYTES_ON_CUDA if batch.student.hidden.is_cuda else CHUNK_BYTES
    return chunk_length(widths, max(4, batch.student.hidden.element_size()), budget)


def _refuse_duplicate_names(weighted: Sequence[Weighted]) -> None:
    names = [w.term.name for w in weighted]
    doubles = {n for n in names if names.count(n) > 1}
    if doubles:
        raise ValueError(f"two terms are called {sorted(doubles)}: give each term its own name")
