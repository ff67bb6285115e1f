"""Divergences between two next-token distributions given as log-probabilities, by name.

Each is a sum over vocabulary entries (``entrywise.py``, which says what holds for all of them); those that weigh the
two KLs stand in ``two_sided.py``.

Definitions, gradients, bounds and other libraries' conventions side by side: ``docs/divergences.md``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from selfteach.objective.axes import Entries
from selfteach.objective.entrywise import (
    NEVER,
    Divergence,
    Share,
    check_log_probs,
    log_mixture,
    ratio,
    require_inside_unit,
    weighted_gap,
)
from selfteach.objective.two_sided import AdaptiveKL, EntropyAware, Jeffreys, MixedKL, ToDi

__all__ = [
    "DIVERGENCES",
    "JSD",
    "NEVER",
    "AdaptiveKL",
    "Alpha",
    "Divergence",
    "EntropyAware",
    "ForwardKL",
    "Jeffreys",
    "MixedKL",
    "Renyi",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "ToDi",
    "TotalVariation",
    "check_log_probs",
    "gkd_jsd",
    "make_divergence",
]


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """``forward_kl``: KL(teacher ‖ student) = Σ q (log q − log p); logit gradient p − q. Mode-covering.

    +inf where the student gives 0 to a token the teacher allows (its gradient stays finite).
    """

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return weighted_gap(teacher, teacher, student)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        return -teacher.exp()

    def unmasked(
        self, student: Entries, teacher: Entries, p: Entries, q: Callable[[], Entries]
    ) -> tuple[Entries, Entries]:
        theirs = q()
        return (teacher - student).mul_(theirs), -theirs


@dataclass(frozen=True)
class ReverseKL(Divergence):
    """``reverse_kl``: KL(student ‖ teacher) = Σ p (log p − log q); logit gradient p (log p − log q − KL).
    Mode-seeking.

    +inf where the teacher gives 0 to a token the student allows.

    ``detach_ratio``: the gradient flows through the weight p only, Σ p · sg[log p − log q]. On a distribution
    that sums to 1 that changes nothing; on a truncated support it removes the bias ∇P(S) (``topk_notail_sg``
    and ``intersect_sg_norm`` of Many Faces, arXiv 2605.11182: with ``TopK(…, tail="drop")``, resp.
    ``"renormalize"``).

    ``clip_ratio``: the detached log p − log q, minus the advantage of entry j, is held within ± this many nats, so
    that the gradient is that of a policy gradient with clipped advantages (SDPO).
    """

    detach_ratio: bool = False
    clip_ratio: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_ratio is not None and not (self.clip_ratio > 0 and self.detach_ratio):
            raise ValueError(f"clip_ratio must be positive and needs detach_ratio, got {self}")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        if self.clip_ratio is not None:
            zero = torch.zeros_like(student)
            gap = (student.detach() - teacher).clamp(-self.clip_ratio, self.clip_ratio)
            return weighted_gap(student, gap, zero)
        return weighted_gap(student, student.detach() if self.detach_ratio else student, teacher)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        return self.summand_and_slope(student, teacher)[1]

    def summand_and_slope(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        gap = self.summand(student, teacher)
        return gap, gap if self.detach_ratio else gap + student.exp()

    def unmasked(
        self, student: Entries, teacher: Entries, p: Entries, q: Callable[[], Entries]
    ) -> tuple[Entries, Entries] | None:
        if self.clip_ratio is not None:
            return None
        gap = (student - teacher).mul_(p)
        return gap, gap if self.detach_ratio else gap + p


@dataclass(frozen=True)
class JSD(Divergence):
    """``jsd``: generalized Jensen–Shannon, β KL(teacher ‖ m) + (1−β) KL(student ‖ m), m = β teacher + (1−β)
    student.

    β = ½ is the Jensen–Shannon divergence, symmetric and at most log 2; any β is at most the entropy of (β,
    1−β). Logit gradient: (1−β) p (log p − log m − KL(student ‖ m)).

    The divergence itself vanishes as β → 0 or 1, so 0 and 1 are refused; D/β → forward KL and D/(1−β) →
    reverse KL. ``scaled`` divides by β (1−β), which has exactly these two limits, equals 4 JSD at ½, and
    gives every β the curvature of a KL at student = teacher. ``gkd_jsd`` reproduces the jump to the pure KLs
    of GKD's code.
    """

    beta: float = 0.5
    scaled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("beta", self.beta, "zero at both ends; gkd_jsd(0 or 1) is forward or reverse KL")

    @property
    def _scale(self) -> float:
        return 1 / (self.beta * (1 - self.beta)) if self.scaled else 1.0

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return self.summand_and_slope(student, teacher)[0]

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        return self.summand_and_slope(student, teacher)[1]

    def summand_and_slope(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        mixture = log_mixture(student, teacher, self.beta)
        slope = self._scale * (1 - self.beta) * weighted_gap(student, student, mixture)
        return self._scale * self.beta * weighted_gap(teacher, teacher, mixture) + slope, slope

    def unmasked(
        self, student: Entries, teacher: Entries, p: Entries, q: Callable[[], Entries]
    ) -> tuple[Entries, Entries]:
        # Where both probabilities are 0 any finite mixture will do.
        theirs = q()
        mixture = torch.lerp(p, theirs, self.beta).clamp_(min=torch.finfo(p.dtype).tiny).log_()
        slope = (student - mixture).mul_(p).mul_(self._scale * (1 - self.beta))
        summand = torch.sub(teacher, mixture, out=mixture).mul_(theirs)
        return torch.add(slope, summand, alpha=self._scale * self.beta), slope


@dataclass(frozen=True)
class SkewForwardKL(Divergence):
    """``skew_forward_kl``: KL(teacher ‖ α teacher + (1−α) student) ≤ −log α (DistiLLM's SKL, the OPD survey).

    α may be a tensor [..., 1], one a position (DistiLLM-2); such a divergence is compared with no other.
    """

    alpha: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("alpha", self.alpha, "0 is ForwardKL, 1 is identically zero")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return weighted_gap(teacher, teacher, log_mixture(student, teacher, self.alpha))

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        mixture = log_mixture(student, teacher, self.alpha)
        return -(1 - self.alpha) * teacher.exp() * ratio(student, mixture)


@dataclass(frozen=True)
class SkewReverseKL(Divergence):
    """``skew_reverse_kl``: KL(student ‖ (1−α) teacher + α student) ≤ −log α (DistiLLM's SRKL, the OPD survey).

    α may be a tensor [..., 1], one a position (DistiLLM-2); such a divergence is compared with no other.
    """

    alpha: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("alpha", self.alpha, "0 is ReverseKL, 1 is identically zero")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return weighted_gap(student, student, log_mixture(student, teacher, 1 - self.alpha))

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        mixture = log_mixture(student, teacher, 1 - self.alpha)
        student_share = self.alpha * ratio(student, mixture)
        return weighted_gap(student, student, mixture) + student.exp() * (1 - student_share)


@dataclass(frozen=True)
class TotalVariation(Divergence):
    """``total_variation``: ½ Σ |p − q|, symmetric, in [0, 1].

    Its gradient knows only the sign of p − q: near student = teacher rounding decides it.
    """

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return 0.5 * (student.exp() - teacher.exp()).abs()

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        chance = student.exp()
        return 0.5 * chance * (chance - teacher.exp()).sign()


@dataclass(frozen=True)
class Alpha(Divergence):
    """``alpha``: Amari's (1 − Σ q^α p^(1−α)) / (α (1−α)), 0 < α < 1; → forward KL as α → 1, reverse KL as α →
    0.

    Summand (α q + (1−α) p − q^α p^(1−α)) / (α (1−α)) ≥ 0 (Young's inequality), so clipping never turns it
    negative. α = ½ is 4 × the squared Hellinger distance. At most 1 / (α (1−α)). Logit gradient (p Σ q^α
    p^(1−α) − q^α p^(1−α)) / α.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("alpha", self.alpha, "0 is ReverseKL, 1 is ForwardKL")

    def _affinity(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.alpha * teacher + (1 - self.alpha) * student).exp()

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        mean = self.alpha * teacher.exp() + (1 - self.alpha) * student.exp()
        return (mean - self._affinity(student, teacher)) / (self.alpha * (1 - self.alpha))

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        return (student.exp() - self._affinity(student, teacher)) / self.alpha


@dataclass(frozen=True)
class Renyi(Divergence):
    """``renyi``: Rényi's R_α(teacher ‖ student) = −log Z / (1−α), Z = Σ q^α p^(1−α), 0 < α < 1; → forward KL
    as α → 1.

    It is no sum over the vocabulary. ``entries`` apportions it by the tilted distribution t = q^α p^(1−α) /
    Z, held constant, which leaves value and gradient exact but makes an entry clip meaningless (refused).
    Logit gradient p − t: the forward KL towards a teacher moved to t. +inf for disjoint supports.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_inside_unit("alpha", self.alpha, "1 is ForwardKL")
        if self.clip_entry is not None:
            raise ValueError("clip_entry means nothing for Renyi, no sum over the vocabulary: use clip_token")

    def _log_affinity(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.alpha * teacher + (1 - self.alpha) * student

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        nothing = (student.amax(-1, keepdim=True) == NEVER) & (teacher.amax(-1, keepdim=True) == NEVER)
        affinity = self._log_affinity(student, teacher).masked_fill(nothing, 0.0)
        value = -affinity.logsumexp(-1, keepdim=True) / (1 - self.alpha)
        return -self.slope(student.detach(), teacher) * value.masked_fill(nothing, 0.0)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        affinity = self._log_affinity(student, teacher)
        disjoint = affinity.amax(-1, keepdim=True) == NEVER
        return -affinity.masked_fill(disjoint, 0.0).softmax(-1)


DIVERGENCES: dict[str, type[Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jsd": JSD,
    "skew_forward_kl": SkewForwardKL,
    "skew_reverse_kl": SkewReverseKL,
    "total_variation": TotalVariation,
    "alpha": Alpha,
    "renyi": Renyi,
    "jeffreys": Jeffreys,
    "mixed_kl": MixedKL,
    "entropy_aware": EntropyAware,
    "todi": ToDi,
    "adaptive_kl": AdaptiveKL,
}


def make_divergence(name: str, **options: float | None) -> Divergence:
    """The divergence registered as ``name``. ValueError: unknown name (naming the nearest) or option."""
    if name not in DIVERGENCES:
        nearest = difflib.get_close_matches(name, DIVERGENCES, n=1, cutoff=0.0)[0]
        known = ", ".join(DIVERGENCES)
        raise ValueError(f"name {name!r} is no divergence: did you mean {nearest!r}? Known: {known}")
    kind = DIVERGENCES[name]
    allowed = [f.name for f in fields(kind)]
    for option in options:
        if option not in allowed:
            raise ValueError(f"divergence {name!r} has no option {option!r}. Known: {', '.join(allowed)}")
    return kind(**options)


def gkd_jsd(beta: float, *, clip_entry: float | None = None, clip_token: float | None = None) -> Divergence:
    """GKD's β as its code reads it: 0 → forward KL, 1 → reverse KL, else the unscaled JSD_β (TRL, ms-swift,
    OPSD, SDPO's α).

    The loss jumps at both ends; ``JSD(beta, scaled=True)`` is the continuous family.
    """
    if beta == 0:
        return ForwardKL(clip_entry=clip_entry, clip_token=clip_token)
    if beta == 1:
        return ReverseKL(clip_entry=clip_entry, clip_token=clip_token)
    return JSD(beta, clip_entry=clip_entry, clip_token=clip_token)
