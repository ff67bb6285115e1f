"""Weighted sums of the two Kullback–Leibler divergences, whose weights may depend on the position or on the entry."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.axes import Entries
from selfteach.objective.entrywise import NEVER, Divergence, require_inside_unit, scaled_gap, weighted_gap


class TwoSidedKL(Divergence):
    """w_F · forward KL + w_R · reverse KL, the weights per position or per entry and without gradient."""

    @abstractmethod
    def weights(
        self, student: Entries, teacher: Entries
    ) -> tuple[Float[Tensor, "*P #K"] | float, Float[Tensor, "*P #K"] | float]:
        """(w_F, w_R), each a number or a tensor that broadcasts to [..., K]."""

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        forward, reverse = self.weights(student.detach(), teacher)
        from_teacher = scaled_gap(forward, teacher, teacher, student)
        return from_teacher + scaled_gap(reverse, student, student, teacher)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        forward, reverse = self.weights(student, teacher)
        through_weight = scaled_gap(reverse, student, student, teacher)
        return through_weight + reverse * student.exp() - forward * teacher.exp()


@dataclass(frozen=True)
class Jeffreys(TwoSidedKL):
    """``jeffreys``: KL(teacher ‖ student) + KL(student ‖ teacher), symmetric (the sum; its half is
    ``MixedKL(.5)``).
    """

    def weights(self, student: Entries, teacher: Entries) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True)
class MixedKL(TwoSidedKL):
    """``mixed_kl``: w KL(teacher ‖ student) + (1−w) KL(student ‖ teacher), w = ``forward``, a constant in (0,
    1).
    """

    forward: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("forward", self.forward, "0 is ReverseKL, 1 is ForwardKL")

    def weights(self, student: Entries, teacher: Entries) -> tuple[float, float]:
        return self.forward, 1 - self.forward


@dataclass(frozen=True)
class EntropyAware(TwoSidedKL):
    """``entropy_aware``: a · forward KL + (1−a) · reverse KL, a = σ((H(teacher) − ``threshold``) /
    ``softness``).

    Where the teacher is unsure the student should cover its modes, elsewhere imitate it (arXiv 2603.07079;
    PW-OPSD, the OPD survey). Threshold and softness in nats; softness → 0 is the switch 1[H > threshold]. H is taken
    over the given support.
    """

    threshold: float = 0.8
    softness: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.softness > 0:
            raise ValueError(f"softness must be positive, got {self.softness}")

    def weights(
        self, student: Entries, teacher: Entries
    ) -> tuple[Float[Tensor, "*P 1"], Float[Tensor, "*P 1"]]:
        entropy = -weighted_gap(teacher, teacher, torch.zeros_like(teacher)).sum(-1, keepdim=True)
        excess = (entropy - self.threshold) / self.softness
        return excess.sigmoid(), (-excess).sigmoid()


@dataclass(frozen=True)
class ToDi(TwoSidedKL):
    """``todi``: per vocabulary entry a_j · forward + (1−a_j) · reverse summand, a_j = σ(log q_j − log p_j),
    no gradient in a.

    Tokens the student underrates are pulled up by the forward KL, overrated ones pushed down by the reverse
    KL (https://arxiv.org/abs/2505.16297). Every summand is ≥ 0.
    """

    def weights(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        absent = (student == NEVER) & (teacher == NEVER)
        gap = (teacher - student).masked_fill(absent, 0.0)
        return gap.sigmoid(), (-gap).sigmoid()


@dataclass(frozen=True)
class AdaptiveKL(TwoSidedKL):
    """``adaptive_kl``: a · forward KL + (1−a) · reverse KL, a the share of Σ |q − p| that lies in the teacher's head
    (AKL, https://arxiv.org/abs/2404.02657), no gradient in a.

    The head holds the teacher's likeliest tokens, as few as reach a mass of ``head`` (of the given support): forward KL
    learns the head first, reverse KL the tail. Where p = q both weigh ½.
    """

    head: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("head", self.head, "0 has no head, 1 no tail")

    def weights(
        self, student: Entries, teacher: Entries
    ) -> tuple[Float[Tensor, "*P 1"], Float[Tensor, "*P 1"]]:
        chance, order = torch.sort(teacher.exp(), dim=-1, descending=True, stable=True)
        whole = chance.sum(-1, keepdim=True)
        inside = (chance.cumsum(-1) - chance) < self.head * whole
        gap = (teacher.exp() - student.exp()).abs()
        total = gap.sum(-1, keepdim=True)
        of_head = (gap.gather(-1, order) * inside).sum(-1, keepdim=True)
        share = torch.where(total > 0, of_head / total.masked_fill(total == 0, 1.0), 0.5)
        return share, 1 - share
