"""A divergence as a sum over vocabulary entries: its value, its clips, its gradient in closed form.

Throughout p is the student and q the teacher, both over the last dimension; values are in nats. An entry, or a
token's sum, can be clipped from above.

Conventions: 0 · log 0 = 0, and a probability that underflows to zero counts as zero; so −inf logits (a masked
vocabulary) are harmless on both sides. A divergence that is infinite is returned as +inf, never as NaN; where
the reverse KL is infinite its gradient is undefined (NaN). The teacher never receives a gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.axes import Entries, LogProbs

NEVER = -math.inf


@dataclass(frozen=True)
class Divergence(ABC):
    """D(student, teacher) = Σ_j summand_j, per position.

    ``clip_entry`` caps each vocabulary entry's summand (OPSD's point-wise clip), ``clip_token`` the
    summed value; both from above only, so a clipped value may be negative. What is capped gets no gradient.
    """

    clip_entry: float | None = field(default=None, kw_only=True)
    clip_token: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("clip_entry", "clip_token"):
            clip = getattr(self, name)
            if clip is not None and not clip > 0:
                raise ValueError(f"{name} must be positive or None, got {clip}")

    @abstractmethod
    def summand(self, student: Entries, teacher: Entries) -> Entries:
        """[..., K] log-probs, twice → [..., K] unclipped summands, differentiable in ``student``."""

    @abstractmethod
    def slope(self, student: Entries, teacher: Entries) -> Entries:
        """[..., K] closed-form ∂ summand_j / ∂ log p_j."""

    def entries(self, student: Entries, teacher: Entries) -> Entries:
        """[..., K] log-probs, twice → [..., K] summands, clipped at ``clip_entry``.

        ValueError: shapes or types differ, a type below float32, NaN.
        """
        entries = self._entries(student, teacher)
        _refuse_nan(entries.sum(-1), student, teacher)
        return entries

    def __call__(self, student: Entries, teacher: Entries) -> Float[Tensor, "*P"]:
        """[..., K] log-probs, twice → [...] nats per position, in the type of the input. ValueError as
        ``entries``.
        """
        total = self._entries(student, teacher).sum(-1)
        _refuse_nan(total, student, teacher)
        return total if self.clip_token is None else total.clamp(max=self.clip_token)

    def unrefused(self, student: Entries, teacher: Entries) -> Float[Tensor, "*P"]:
        """As ``__call__``, but NaN where either side holds NaN, for statistics that may not be read there."""
        total = self._entries(student, teacher).sum(-1)
        total = total.masked_fill(student.isnan().any(-1) | teacher.isnan().any(-1), torch.nan)
        return total if self.clip_token is None else total.clamp(max=self.clip_token)

    def summand_and_slope(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        """(``summand``, ``slope``); one of its own only where the two share work."""
        return self.summand(student, teacher), self.slope(student, teacher)

    def unmasked(
        self, student: Entries, teacher: Entries, p: Entries, q: Callable[[], Entries]
    ) -> tuple[Entries, Entries] | None:
        """``summand_and_slope`` from probabilities, without care for excluded tokens, which give NaN here. None: there
        is no such form."""
        return None

    @torch.no_grad()
    def value_and_slope(self, student: Entries, teacher: Entries) -> tuple[Float[Tensor, "*P"], Entries]:
        """([...] what ``__call__`` gives, [..., K] its closed-form derivative in the student's log-probs).

        These need not sum to 1. The slope is 0 at what is capped (Unmasking OPD). ValueError as ``entries``.
        """
        check_log_probs(student, teacher)
        total, slope = self._capped(*self.summand_and_slope(student, teacher))
        _refuse_nan(total, student, teacher)
        return total, slope

    @torch.no_grad()
    def value_and_logit_gradient(
        self,
        student: LogProbs,
        teacher: LogProbs,
        p: LogProbs | None = None,
        q: Callable[[], LogProbs] | None = None,
    ) -> tuple[Float[Tensor, "*P"], LogProbs]:
        """([...] what ``__call__`` gives, [..., V] its closed-form gradient in the student's logits).

        Exact when ``student`` is a log-softmax over the whole last dimension: ``slope``_j − p_j Σ_i ``slope``_i. ``p``
        and ``q()``: the probabilities, where others want them too. ValueError as ``entries``.
        """
        check_log_probs(student, teacher)
        p = student.exp() if p is None else p
        found = self.unmasked(student, teacher, p, q or teacher.exp)
        total, slope = self._capped(*found) if found else (None, None)
        if total is None or slope is None or total.isnan().any():
            total, slope = self.value_and_slope(student, teacher)
        return total, torch.addcmul(slope, p, slope.sum(-1, keepdim=True), value=-1)

    def _capped(self, summand: Entries, slope: Entries) -> tuple[Float[Tensor, "*P"], Entries]:
        """([...] the sum of the summands, [..., K] the slope), both clipped."""
        if self.clip_entry is not None:
            slope = torch.where(summand > self.clip_entry, 0.0, slope)
            summand = summand.clamp(max=self.clip_entry)
        total = summand.sum(-1)
        if self.clip_token is None:
            return total, slope
        capped = total > self.clip_token
        return total.clamp(max=self.clip_token), torch.where(capped.unsqueeze(-1), 0.0, slope)

    def logit_gradient(self, student: LogProbs, teacher: LogProbs) -> LogProbs:
        """[..., V] the gradient alone, as ``value_and_logit_gradient`` gives it."""
        return self.value_and_logit_gradient(student, teacher)[1]

    def _entries(self, student: Tensor, teacher: Tensor) -> Tensor:
        check_log_probs(student, teacher)
        summand = self.summand(student, teacher.detach())
        return summand if self.clip_entry is None else summand.clamp(max=self.clip_entry)


def check_log_probs(student: Entries, teacher: Entries, teacher_name: str = "teacher") -> None:
    """ValueError unless the two are of one shape [..., K ≥ 1] and one type, float32 or float64."""
    if student.dim() == 0 or student.shape[-1] == 0:
        raise ValueError(f"student must be log-probs [..., K] with K ≥ 1, got shape {list(student.shape)}")
    if student.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"student is {student.dtype}: cast the logits to float32 before the log-softmax")
    if teacher.shape != student.shape:
        raise ValueError(f"{teacher_name} has shape {list(teacher.shape)}, student {list(student.shape)}")
    if teacher.dtype != student.dtype:
        raise ValueError(f"{teacher_name} is {teacher.dtype}, student {student.dtype}: cast both to one type")


def _refuse_nan(result: Tensor, student: Tensor, teacher: Tensor) -> None:
    """Looks at the [...] result first, because a look at the [..., K] inputs costs a pass over the
    vocabulary.
    """
    if not result.isnan().any():
        return
    for name, log_probs in (("student", student), ("teacher", teacher)):
        if log_probs.isnan().any():
            raise ValueError(f"{name} holds NaN log-probs")


Share = float | Float[Tensor, "*P 1"]
"""A number strictly between 0 and 1, or one a position."""


def require_inside_unit(name: str, value: Share, ends: str) -> None:
    inside = bool(((value > 0) & (value < 1)).all()) if isinstance(value, Tensor) else 0 < value < 1
    if not inside:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value} ({ends})")


def weighted_gap(log_weight: Entries, top: Entries, bottom: Entries) -> Entries:
    """exp(log_weight) · (top − bottom), and 0 with zero gradient where the weight is 0."""
    weight = log_weight.exp()
    return weight * (top - bottom).masked_fill_(weight == 0, 0.0)


def scaled_gap(
    scale: Float[Tensor, "*P #K"] | float, log_weight: Entries, top: Entries, bottom: Entries
) -> Entries:
    """scale · exp(log_weight) · (top − bottom), with 0 · inf = 0 for the scale too, in value and gradient."""
    if isinstance(scale, Tensor):
        log_weight, top, bottom = (x.masked_fill(scale == 0, 0.0) for x in (log_weight, top, bottom))
    return scale * weighted_gap(log_weight, top, bottom)


def log_mixture(student: Entries, teacher: Entries, teacher_share: Share) -> Entries:
    """log(share · teacher + (1 − share) · student). Where both are −inf any finite value will do: its weight is 0."""
    absent = (student == NEVER) & (teacher == NEVER)
    if isinstance(teacher_share, Tensor):
        theirs, ours = teacher_share.log(), (-teacher_share).log1p()
        return torch.logaddexp(student + ours, teacher.masked_fill(absent, 0.0) + theirs)
    own = student + math.log1p(-teacher_share)
    return torch.logaddexp(own, teacher.masked_fill(absent, 0.0) + math.log(teacher_share))


def ratio(top: Entries, bottom: Entries) -> Entries:
    """exp(top − bottom), and 0 where top is −inf."""
    return (top - bottom).exp().masked_fill(top == NEVER, 0.0)
