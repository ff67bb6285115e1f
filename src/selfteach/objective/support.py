"""The part of the vocabulary on which a divergence is taken.

A support turns two full log-distributions [..., V] into two [..., K'] ones over the same entries; a
divergence then takes the pair as it takes any. An entry outside the support is −inf on both sides and so
contributes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfteach.objective.axes import Entries, LogProbs
from selfteach.objective.entrywise import NEVER, Divergence, check_log_probs
from selfteach.objective.top import top_ids

Chooser = Literal["teacher", "student", "union", "intersection"]
Tail = Literal["bucket", "renormalize", "drop"]


@dataclass(frozen=True)
class Full:
    """The whole vocabulary, exact: the reference every other support approximates."""

    def restrict(self, student: LogProbs, teacher: LogProbs) -> tuple[LogProbs, LogProbs]:
        """[..., V] log-probs, twice → the same. ValueError: shapes or types differ."""
        check_log_probs(student, teacher)
        return student, teacher


@dataclass(frozen=True)
class TopK:
    """The ``k`` likeliest entries ``of`` the teacher, the student, or the union or intersection of both sets.

    A vocabulary of at most ``k`` entries is kept whole. ``tail`` says what becomes of the mass outside:

    - ``bucket``: one more entry holds it. By the data-processing inequality no f-divergence (nor Rényi's)
      exceeds its full value; equal from k = V − 1 on. The tail is summed over its entries, so it neither
      vanishes nor needs a clamp when the top-k mass rounds to 1.
    - ``renormalize``: both sides are rescaled to sum to 1. Blind to mass that leaves the set; identically 0
      at k = 1, and may exceed the full divergence (SDPO).
    - ``drop``: the plain log-probs. BIASED: no divergence any more, may be negative, leaves a gradient at
      student = teacher. The reverse KL's gradient carries the extra ∇P(S), P(S) the student's mass on the set
      (Many Faces): its minimum is p = q/e there, so descent moves mass out of the set.
      ``ReverseKL(detach_ratio=True)`` removes exactly that term.

    Many Faces's stop-gradient form is therefore no tail of its own but ``ReverseKL(detach_ratio=True)`` on
    ``drop``. An empty intersection contributes 0 (with ``bucket`` both tails hold everything: also 0).
    """

    k: int
    of: Chooser = "teacher"
    tail: Tail = "bucket"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if self.of not in get_args(Chooser):
            raise ValueError(f"of must be one of {', '.join(get_args(Chooser))}, got {self.of!r}")
        if str(self.tail) == "stop-gradient":
            raise ValueError("tail='stop-gradient' is spelled ReverseKL(detach_ratio=True) with tail='drop'")
        if self.tail not in get_args(Tail):
            raise ValueError(f"tail must be one of {', '.join(get_args(Tail))}, got {self.tail!r}")

    def restrict(self, student: LogProbs, teacher: LogProbs) -> tuple[Entries, Entries]:
        """[..., V] log-probs, twice → [..., K'] log-probs, twice; K' = min(k, V) (twice that for a union), one
        more with a bucket.

        ValueError: shapes or types differ.
        """
        check_log_probs(student, teacher)
        chosen = self._choose(student, teacher)
        return self._entries(student, *chosen)[0], self._entries(teacher, *chosen)[0]

    @torch.no_grad()
    def value_and_logit_gradient(
        self, divergence: Divergence, student: LogProbs, teacher: LogProbs
    ) -> tuple[Float[Tensor, "*P"], LogProbs]:
        """([...] the divergence on this support, [..., V] its closed-form gradient in the student's logits).

        Exact when ``student`` is a log-softmax over V. With g_j the divergence's slope in the log of kept entry j,
        g_* in the bucket's, G their sum and p_* the student's mass outside the set:

            drop          [j kept] g_j − p_j G
            renormalize   [j kept] (g_j − p_j/Σ_kept p · G)
            bucket        g_j − p_j G of a kept entry, p_j/p_* · (g_* − p_* G) of another

        ValueError as ``restrict`` and ``Divergence``.
        """
        check_log_probs(student, teacher)
        ids, kept, _ = chosen = self._choose(student, teacher)
        own, outside = self._entries(student, *chosen)
        value, slope = divergence.value_and_slope(own, self._entries(teacher, *chosen)[0])
        of_tail = slope[..., ids.shape[-1] :]
        own, slope = own[..., : ids.shape[-1]], slope[..., : ids.shape[-1]].masked_fill(~kept, 0.0)
        total = slope.sum(-1, keepdim=True)
        if outside is not None:
            # Of p_j/p_*, not p_j, which may be 0 where the student is sure of the set.
            terms, mass, tail = outside
            of_tail = of_tail.masked_fill(mass == 0, 0.0)
            total = total + of_tail
            base = terms.mul_((of_tail - tail.exp() * total) / mass.masked_fill(mass == 0, 1.0))
            added = slope - own.exp() * total
        elif self.tail == "renormalize":
            base, added = torch.zeros_like(student), slope - own.exp() * total
        else:
            base, added = student.exp().mul_(-total), slope
        return value, base.scatter_add_(-1, ids, added.masked_fill(~kept, 0.0))

    def _entries(
        self, log_probs: LogProbs, ids: Tensor, kept: Tensor, inside: Tensor
    ) -> tuple[Entries, tuple[Tensor, Tensor, Tensor] | None]:
        """([..., K'] the restricted log-probs; of a bucket what ``_log_sum`` gives of the entries outside the set)."""
        every = log_probs.gather(-1, ids)
        chosen = every.masked_fill(~kept, NEVER)
        if self.tail == "bucket":
            outside = _log_sum(log_probs.scatter(-1, ids, every.masked_fill(inside, NEVER)))
            return torch.cat([chosen, outside[2]], dim=-1), outside
        if self.tail == "renormalize":
            return chosen - _log_sum(chosen, empty=0.0)[2], None
        return chosen, None

    @torch.no_grad()
    def select(
        self, student: LogProbs, teacher: LogProbs
    ) -> tuple[Int[Tensor, "*P K"], Bool[Tensor, "*P K"], Bool[Tensor, "*P V"]]:
        """(ids [..., K'] of the candidates, which of them count [..., K'], the set as a mask [..., V]).

        A union lists the student's ids, then the teacher's, of which those already listed do not count.
        """
        check_log_probs(student, teacher)
        ids, kept, inside = self._choose(student, teacher)
        return ids, kept, torch.zeros_like(student, dtype=torch.bool).scatter_(-1, ids, inside)

    @torch.no_grad()
    def _choose(self, student: LogProbs, teacher: LogProbs) -> tuple[Tensor, Tensor, Tensor]:
        """(ids [..., K'], which of them count [..., K'], which of them are in the set [..., K'])."""
        k = min(self.k, student.shape[-1])
        if self.of in ("teacher", "student"):
            ids = top_ids(teacher if self.of == "teacher" else student, k)
            every = torch.ones_like(ids, dtype=torch.bool)
            return ids, every, every
        of_student, of_teacher = top_ids(student, k), top_ids(teacher, k)
        if self.of == "intersection":
            both = _among(of_student, of_teacher, student.shape[-1])
            return of_student, both, both
        new = ~_among(of_teacher, of_student, student.shape[-1])
        every = torch.ones_like(new)
        ids = torch.cat([of_student, of_teacher], dim=-1)
        return ids, torch.cat([every, new], dim=-1), torch.cat([every, every], dim=-1)


Support = Full | TopK


def likeliest(k: int | None, of: Chooser = "teacher", tail: Tail = "bucket") -> Support:
    """The whole vocabulary where ``k`` is None, else ``TopK(k, of, tail)``."""
    return Full() if k is None else TopK(k, of, tail)


def likeliest_read(support: Support | None) -> int | None:
    """How many of the teacher's own likeliest entries a support reads, beside the mass of the others; None: any entry
    of it."""
    return support.k if isinstance(support, TopK) and support.of == "teacher" else None


def _among(ids: Tensor, others: Tensor, width: int) -> Tensor:
    """[..., K] bool: which of the ids are among the others [..., K]."""
    mask = torch.zeros(*ids.shape[:-1], width, dtype=torch.bool, device=ids.device)
    return mask.scatter_(-1, others, True).gather(-1, ids)


def _log_sum(log_probs: Tensor, empty: float = NEVER) -> tuple[Tensor, Tensor, Tensor]:
    """[..., K] → ([..., K] exp of each less their maximum, [..., 1] the sum of these, [..., 1] log Σ exp: ``empty``,
    with zero gradient, where every entry is −inf)."""
    largest = log_probs.detach().amax(-1, keepdim=True)
    nothing = largest == NEVER
    shift = largest.masked_fill(nothing, 0.0)
    terms = (log_probs - shift).exp()
    mass = terms.sum(-1, keepdim=True)
    return terms, mass, (shift + mass.masked_fill(nothing, 1.0).log()).masked_fill(nothing, empty)
