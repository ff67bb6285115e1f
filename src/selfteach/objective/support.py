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
from selfteach.objective.divergence import NEVER, Divergence, check_log_probs
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
        chosen = self.select(student, teacher)
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
        ids, kept, _ = chosen = self.select(student, teacher)
        own, outside = self._entries(student, *chosen)
        value, slope = divergence.value_and_slope(own, self._entries(teacher, *chosen)[0])
        if self.tail == "renormalize":
            base = torch.zeros_like(student)
            added = slope - own.exp() * slope.masked_fill(~kept, 0.0).sum(-1, keepdim=True)
        elif outside is None:
            base = student.exp().mul_(-slope.masked_fill(~kept, 0.0).sum(-1, keepdim=True))
            added = slope
        else:
            tail, slope, of_tail = own[..., -1:], slope[..., :-1].masked_fill(~kept, 0.0), slope[..., -1:]
            nothing = tail == NEVER
            of_tail = of_tail.masked_fill(nothing, 0.0)
            total = slope.sum(-1, keepdim=True) + of_tail
            # Of p_j/p_*, not p_j, which may be 0 where the student is sure of the set.
            base = outside.sub_(tail.masked_fill(nothing, 0.0)).exp_().mul_(of_tail - tail.exp() * total)
            added = slope - own[..., :-1].exp() * total
        return value, base.scatter_add_(-1, ids, added.masked_fill(~kept, 0.0))

    def _entries(
        self, log_probs: LogProbs, ids: Tensor, kept: Tensor, inside: Tensor
    ) -> tuple[Entries, LogProbs | None]:
        """([..., K'] the restricted log-probs, with a bucket [..., V] those outside the set, −inf within)."""
        chosen = log_probs.gather(-1, ids).masked_fill(~kept, NEVER)
        if self.tail == "bucket":
            outside = log_probs.masked_fill(inside, NEVER)
            return torch.cat([chosen, _log_sum(outside)], dim=-1), outside
        if self.tail == "renormalize":
            return chosen - _log_sum(chosen, empty=0.0), None
        return chosen, None

    @torch.no_grad()
    def select(
        self, student: LogProbs, teacher: LogProbs
    ) -> tuple[Int[Tensor, "*P K"], Bool[Tensor, "*P K"], Bool[Tensor, "*P V"]]:
        """(ids [..., K'] of the candidates, which of them count [..., K'], the set as a mask [..., V]).

        A union lists the student's ids, then the teacher's, of which those already listed do not count.
        """
        check_log_probs(student, teacher)
        width = student.shape[-1]
        k = min(self.k, width)
        if self.of in ("teacher", "student"):
            ids = top_ids(teacher if self.of == "teacher" else student, k)
            return ids, torch.ones_like(ids, dtype=torch.bool), _mask(ids, width)
        of_student, of_teacher = top_ids(student, k), top_ids(teacher, k)
        in_student, in_teacher = _mask(of_student, width), _mask(of_teacher, width)
        if self.of == "intersection":
            return of_student, in_teacher.gather(-1, of_student), in_student & in_teacher
        ids = torch.cat([of_student, of_teacher], dim=-1)
        new = ~in_student.gather(-1, of_teacher)
        return ids, torch.cat([torch.ones_like(new), new], dim=-1), in_student | in_teacher


Support = Full | TopK


def likeliest(k: int | None, of: Chooser = "teacher", tail: Tail = "bucket") -> Support:
    """The whole vocabulary where ``k`` is None, else ``TopK(k, of, tail)``."""
    return Full() if k is None else TopK(k, of, tail)


def _mask(ids: Tensor, width: int) -> Tensor:
    return torch.zeros(*ids.shape[:-1], width, dtype=torch.bool, device=ids.device).scatter_(-1, ids, True)


def _log_sum(log_probs: Tensor, empty: float = NEVER) -> Tensor:
    """[..., K] → [..., 1] log Σ exp; ``empty``, with zero gradient, where every entry is −inf."""
    nothing = log_probs.amax(-1, keepdim=True) == NEVER
    return log_probs.masked_fill(nothing, 0.0).logsumexp(-1, keepdim=True).masked_fill(nothing, empty)
