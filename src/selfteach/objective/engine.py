"""Sum the terms of a loss in chunks of positions, and never hold [P, V] at once.

The gradient is taken in the forward pass, chunk by chunk, and handed to autograd as one node: whatever lies below the
states of a trained role (a transformer, under DDP or not) and the heads' own tensors get exact gradients while at
most one chunk's logits are alive. A chunk is what the matrix products see; within it the gradient in the logits is
taken block by block, small enough for a processor's cache, and takes the logits' place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.objective.batch import ScoredBatch
from selfteach.objective.layout import Layout
from selfteach.objective.plan import Weighted
from selfteach.objective.positions import (
    Chunk,
    Positions,
    Quantity,
    blocks,
    chunk_length,
    chunks,
    positions_of,
)
from selfteach.objective.record import Recorder, budget
from selfteach.objective.sums import Sums
from selfteach.objective.terms import Term


@dataclass(frozen=True)
class Outcome:
    """``loss`` (0-dim, differentiable); ``terms`` name → its value; ``token`` name → [P] columns over the positions of
    ``layout``, no gradient, NaN where a position was not looked at: "loss/TERM", "weight/TERM", what a term
    notes and what was watched.
    """

    loss: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    token: Mapping[str, Float[Tensor, "P"]]
    layout: Layout


def evaluate_terms(
    batch: ScoredBatch,
    weighted: Sequence[Weighted],
    *,
    watch: Mapping[str, Quantity] | None = None,
    chunk_bytes: int | None = None,
    compiler: str | None = None,
) -> Outcome:
    """The loss of ``batch`` and its gradient path to every role that a term trains and whose tensors require one.

    ``watch`` adds per-token columns (no gradient) measured on the same logits, wherever its quantities say.
    ``chunk_bytes`` bounds the logits of all roles alive at a time (None: 96 MiB, on CUDA 256 MiB). ``compiler``: a
    backend of torch.compile, such as "inductor", for the closed-form gradients (None: none). The loss can be
    differentiated once.

    ValueError naming the term: a role it reads is missing, what it reads is NaN, its loss is not [P] or not
    finite, its gradient is not finite, two terms of one name.
    """
    _refuse_duplicate_names(weighted)
    terms, wanted = _local(batch, weighted)
    sums = Sums.of(batch, [local.term for local in terms])
    record = Recorder(batch, watch or {})
    work = _Work(batch, terms, wanted, record, sums, chunk_bytes, _closed_form(compiler))
    with torch.autocast(batch.device.type, enabled=False):
        loss: Tensor = _SumOfChunks.apply(work, *sums.tensors)  # type: ignore[no-untyped-call]
        record.watch_the_rest(wanted, chunk_bytes)
    return Outcome(loss=loss, terms=work.values, token=record.columns, layout=batch.layout)


Gradient = tuple[Float[Tensor, "P"], Float[Tensor, "P V"] | Float[Tensor, "P f"]]
"""([P] losses, [P, V] or [P, f] their gradients in the role's logits or features)"""


@cache
def _closed_form(compiler: str | None) -> Callable[[Term, Positions], Gradient | None]:
    def logit_gradient(term: Term, at: Positions) -> Gradient | None:
        return term.logit_gradient(at)

    return logit_gradient if compiler is None else torch.compile(logit_gradient, backend=compiler)


def by_autograd(term: Term, at: Positions) -> Gradient:
    """What ``Term.logit_gradient`` gives, found by autograd: for terms without a closed form, and its reference."""
    of_features = term.trains == "features"
    source = (at.features if of_features else at.logits)[term.role].detach().requires_grad_()
    moved = {term.role: source}
    with torch.enable_grad():
        losses = term.token_loss(at.with_features(moved) if of_features else at.with_logits(moved))
        (gradient,) = torch.autograd.grad(losses.sum(), source)
    return losses.detach(), gradient


def weight_at(one: Weighted, at: Positions) -> Float[Tensor, "P"]:
    """[P] coefficient × gate of a term at positions it selects. ValueError if the gate is NaN or infinite there."""
    weight = one.coefficients[at.row, at.step]
    if one.term.gate is None:
        return weight
    with torch.no_grad():
        factor = one.term.gate(at).detach()
    if not factor.isfinite().all():
        raise ValueError("gate is NaN or infinite at a token the term selects")
    return weight * factor.to(weight.dtype)


@dataclass(frozen=True)
class _Local:
    """A term on the micro-batch: ``chosen`` [P] positions; ``everywhere``: all that any term visits."""

    planned: Weighted
    chosen: Bool[Tensor, "P"]
    everywhere: bool

    @property
    def term(self) -> Term:
        return self.planned.term


@dataclass
class _Work:
    """What the autograd node does: walk the chunks, return the loss, leave its gradients in ``sums``."""

    batch: ScoredBatch
    terms: Sequence[_Local]
    wanted: Bool[Tensor, "P"]
    record: Recorder
    sums: Sums
    chunk_bytes: int | None
    closed_form: Callable[[Term, Positions], Gradient | None]
    values: dict[str, Float[Tensor, ""]] = field(default_factory=dict)

    def run(self) -> Float[Tensor, ""]:
        zero = torch.zeros((), dtype=self.batch.dtype, device=self.batch.device)
        roles = list(dict.fromkeys(role for local in self.terms for role in local.term.visited))
        self.record.set_apart(roles, self.wanted)
        roles = list(dict.fromkeys([*roles, *self.record.roles]))
        for local in self.terms:
            self.values[local.term.name] = zero.clone()
            for kind in ("loss", "weight"):
                self.record.column(f"{kind}/{local.term.name}")
        length = chunk_length(self.batch, roles, budget(self.batch, self.chunk_bytes))
        for chunk in chunks(self.batch, self.wanted, length):
            self.project(chunk, positions_of(self.batch, chunk, roles))
        return sum(self.values.values(), zero)

    def project(self, chunk: Chunk, at: Positions) -> None:
        """Take one chunk's logits to their gradients, block by block, and these back into ``sums``."""
        trained = self.sums.logits_of
        for which in blocks(at):
            found = self.block(chunk.take(which), at.take(which))
            for role in trained:
                logits, head = at.logits[role][which], self.batch.roles[role].head
                gradient = found.get(("logits", role))
                if gradient is None:
                    logits.zero_()
                else:
                    logits.copy_(head.before_softcap(gradient, logits))
        for role in trained:
            self.sums.pull_back(role, chunk.place, at.logits[role])

    def block(self, chunk: Chunk, at: Positions) -> dict[tuple[str, str], Tensor]:
        """Let every term visit a block; ("logits" | "features", role) → the gradient in it, where one is wanted."""
        found: dict[tuple[str, str], Tensor] = {}
        for local in self.terms:
            try:
                self.visit(local, chunk, at, found)
            except ValueError as problem:
                raise ValueError(f"term {local.term.name!r}: {problem}") from problem
        for role in self.sums.features_of:
            if (gradient := found.get(("features", role))) is not None:
                self.sums.add_features(role, chunk.place, gradient)
        self.record.look(chunk, at)
        return found

    def visit(self, local: _Local, chunk: Chunk, at: Positions, found: dict[tuple[str, str], Tensor]) -> None:
        """Add what one term gives a block. A position it does not select may be −inf or undefined for it."""
        term, chosen = local.term, None
        if not local.everywhere:
            chosen = local.chosen[chunk.place]
            if not chosen.any():
                return
            chunk, at = chunk.take(chosen), at.take(chosen)
        weight, gradient = weight_at(local.planned, at).to(self.batch.dtype), None
        key = (term.trains, term.role)
        if key in self.sums.trained:
            losses, gradient = self.closed_form(term, at) or by_autograd(term, at)
            gradient = gradient * weight.unsqueeze(1)
            if term.gate is not None:  # a gate of 0 closes a position whose gradient may be infinite
                gradient = gradient.masked_fill_((weight == 0).unsqueeze(1), 0.0)
            _add(found, key, gradient, chosen)
        else:
            losses = term.token_loss(at)
        _refuse_shape(losses, at)
        _refuse_infinite(losses, gradient, weight, at)
        summands = weight * losses
        if term.gate is not None:
            summands = summands.masked_fill(weight == 0, 0.0)
        self.values[term.name] += summands.sum()
        self.record.put(f"weight/{term.name}", chunk, weight)
        self.record.put(f"loss/{term.name}", chunk, losses)
        for kind, values in term.noted(at).items():
            self.record.put(f"{kind}/{term.name}", chunk, values)


def _refuse_shape(losses: Tensor, at: Positions) -> None:
    """A mean over the positions at hand would depend on how the batch is cut into chunks."""
    if losses.shape != at.ids.shape:
        raise ValueError(
            f"the token loss must be [P], one number a position, here {list(at.ids.shape)}, "
            f"got {list(losses.shape)}; take means by mean_over"
        )


def _refuse_infinite(losses: Tensor, gradient: Tensor | None, weight: Tensor, at: Positions) -> None:
    """ValueError naming the first place where the loss is NaN, or not finite with a gate that is open, or where the
    weighted gradient is not finite."""
    bad = losses.isnan() | (losses.isinf() & (weight != 0))
    if gradient is not None:  # a sum is finite only if every entry is
        bad = bad | ~gradient.sum(-1).isfinite()
    if bad.any():
        i = int(bad.nonzero()[0])
        loss = float(losses[i])
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        raise ValueError(
            f"{what} at row {int(at.row[i])}, position {int(at.step[i])}, which it selects: something that it reads is "
            "NaN or infinite, or it is infinite of a token that a role excludes (-inf)"
        )


def _add(
    found: dict[tuple[str, str], Tensor], key: tuple[str, str], gradient: Tensor, chosen: Tensor | None
) -> None:
    """Add a gradient at the ``chosen`` positions of a block (None: all) to what other terms gave there."""
    if chosen is not None:
        gradient = gradient.new_zeros(len(chosen), gradient.shape[1]).index_put_((chosen,), gradient)
    found[key] = found[key].add_(gradient) if key in found else gradient


class _SumOfChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: _Work, *tensors: Tensor) -> Tensor:
        loss = work.run()
        ctx.sums, ctx.dtypes = work.sums.gradients, [t.dtype for t in tensors]
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        if ctx.sums is None:
            raise RuntimeError("this loss has been differentiated already: its gradients were handed out")
        # Handed out, not copied: beside a wide vocabulary the head's gradient is the largest tensor there is.
        sums, ctx.sums = ctx.sums, None
        grads = (s.mul_(upstream[0]) for s in sums)
        return None, *(g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))


def _local(batch: ScoredBatch, weighted: Sequence[Weighted]) -> tuple[list[_Local], Tensor]:
    """The terms on this micro-batch, and the positions [P] any of them selects."""
    chosen = [batch.layout.at(one.coefficients) != 0 for one in weighted]
    wanted = torch.zeros(len(batch.layout), dtype=torch.bool, device=batch.layout.row.device)
    for c in chosen:
        wanted |= c
    return [
        _Local(one, c, everywhere=bool((c == wanted).all())) for one, c in zip(weighted, chosen, strict=True)
    ], wanted


def _refuse_duplicate_names(weighted: Sequence[Weighted]) -> None:
    names = [w.term.name for w in weighted]
    doubles = {n for n in names if names.count(n) > 1}
    if doubles:
        raise ValueError(f"two terms are called {sorted(doubles)}: give each term its own name")
