"""Divergences between two next-token distributions given as log-probabilities.

Throughout p is the student and q the teacher, both over the last dimension; values are in nats. Every
divergence is a sum over vocabulary entries (``Divergence.entries``), so an entry, or a token's sum, can be
clipped from above.

Conventions: 0 · log 0 = 0, and a probability that underflows to zero counts as zero; so −inf logits (a masked
vocabulary) are harmless on both sides. A divergence that is infinite is returned as +inf, never as NaN; where
the reverse KL is infinite its gradient is undefined (NaN). The teacher never receives a gradient.

Definitions, gradients, bounds and other libraries' conventions side by side: ``docs/divergences.md``.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields

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


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """``forward_kl``: KL(teacher ‖ student) = Σ q (log q − log p); logit gradient p − q. Mode-covering.

    +inf where the student gives 0 to a token the teacher allows (its gradient stays finite).
    """

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return _weighted_gap(teacher, teacher, student)

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
            return _weighted_gap(student, gap, zero)
        return _weighted_gap(student, student.detach() if self.detach_ratio else student, teacher)

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
        _require_inside_unit("beta", self.beta, "zero at both ends; gkd_jsd(0 or 1) is forward or reverse KL")

    @property
    def _scale(self) -> float:
        return 1 / (self.beta * (1 - self.beta)) if self.scaled else 1.0

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return self.summand_and_slope(student, teacher)[0]

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        return self.summand_and_slope(student, teacher)[1]

    def summand_and_slope(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        mixture = _log_mixture(student, teacher, self.beta)
        slope = self._scale * (1 - self.beta) * _weighted_gap(student, student, mixture)
        return self._scale * self.beta * _weighted_gap(teacher, teacher, mixture) + slope, slope

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
    """``skew_forward_kl``: KL(teacher ‖ α teacher + (1−α) student) ≤ −log α (DistiLLM's SKL, the OPD survey)."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_inside_unit("alpha", self.alpha, "0 is ForwardKL, 1 is identically zero")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return _weighted_gap(teacher, teacher, _log_mixture(student, teacher, self.alpha))

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        mixture = _log_mixture(student, teacher, self.alpha)
        return -(1 - self.alpha) * teacher.exp() * _ratio(student, mixture)


@dataclass(frozen=True)
class SkewReverseKL(Divergence):
    """``skew_reverse_kl``: KL(student ‖ (1−α) teacher + α student) ≤ −log α (DistiLLM's SRKL, the OPD survey)."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_inside_unit("alpha", self.alpha, "0 is ReverseKL, 1 is identically zero")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        return _weighted_gap(student, student, _log_mixture(student, teacher, 1 - self.alpha))

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        mixture = _log_mixture(student, teacher, 1 - self.alpha)
        student_share = self.alpha * _ratio(student, mixture)
        return _weighted_gap(student, student, mixture) + student.exp() * (1 - student_share)


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
        _require_inside_unit("alpha", self.alpha, "0 is ReverseKL, 1 is ForwardKL")

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
        _require_inside_unit("alpha", self.alpha, "1 is ForwardKL")
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


class _TwoSidedKL(Divergence):
    """w_F · forward KL + w_R · reverse KL, the weights per position or per entry and without gradient."""

    @abstractmethod
    def weights(
        self, student: Entries, teacher: Entries
    ) -> tuple[Float[Tensor, "*P #K"] | float, Float[Tensor, "*P #K"] | float]:
        """(w_F, w_R), each a number or a tensor that broadcasts to [..., K]."""

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        forward, reverse = self.weights(student.detach(), teacher)
        from_teacher = _scaled_gap(forward, teacher, teacher, student)
        return from_teacher + _scaled_gap(reverse, student, student, teacher)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        forward, reverse = self.weights(student, teacher)
        through_weight = _scaled_gap(reverse, student, student, teacher)
        return through_weight + reverse * student.exp() - forward * teacher.exp()


@dataclass(frozen=True)
class Jeffreys(_TwoSidedKL):
    """``jeffreys``: KL(teacher ‖ student) + KL(student ‖ teacher), symmetric (the sum; its half is
    ``MixedKL(.5)``).
    """

    def weights(self, student: Entries, teacher: Entries) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True)
class MixedKL(_TwoSidedKL):
    """``mixed_kl``: w KL(teacher ‖ student) + (1−w) KL(student ‖ teacher), w = ``forward``, a constant in (0,
    1).
    """

    forward: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_inside_unit("forward", self.forward, "0 is ReverseKL, 1 is ForwardKL")

    def weights(self, student: Entries, teacher: Entries) -> tuple[float, float]:
        return self.forward, 1 - self.forward


@dataclass(frozen=True)
class EntropyAware(_TwoSidedKL):
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
        entropy = -_weighted_gap(teacher, teacher, torch.zeros_like(teacher)).sum(-1, keepdim=True)
        excess = (entropy - self.threshold) / self.softness
        return excess.sigmoid(), (-excess).sigmoid()


@dataclass(frozen=True)
class ToDi(_TwoSidedKL):
    """``todi``: per vocabulary entry a_j · forward + (1−a_j) · reverse summand, a_j = σ(log q_j − log p_j),
    no gradient in a.

    Tokens the student underrates are pulled up by the forward KL, overrated ones pushed down by the reverse
    KL (https://arxiv.org/abs/2505.16297). Every summand is ≥ 0.
    """

    def weights(self, student: Entries, teacher: Entries) -> tuple[Entries, Entries]:
        absent = (student == NEVER) & (teacher == NEVER)
        gap = (teacher - student).masked_fill(absent, 0.0)
        return gap.sigmoid(), (-gap).sigmoid()


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


def _require_inside_unit(name: str, value: float, ends: str) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value} ({ends})")


def _weighted_gap(log_weight: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """exp(log_weight) · (top − bottom), and 0 with zero gradient where the weight is 0."""
    weight = log_weight.exp()
    return weight * (top - bottom).masked_fill_(weight == 0, 0.0)


def _scaled_gap(scale: Tensor | float, log_weight: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """scale · exp(log_weight) · (top − bottom), with 0 · inf = 0 for the scale too, in value and gradient."""
    if isinstance(scale, Tensor):
        log_weight, top, bottom = (x.masked_fill(scale == 0, 0.0) for x in (log_weight, top, bottom))
    return scale * _weighted_gap(log_weight, top, bottom)


def _log_mixture(student: Tensor, teacher: Tensor, teacher_share: float) -> Tensor:
    """log(share · teacher + (1 − share) · student). Where both are −inf any finite value will do: its weight is 0."""
    absent = (student == NEVER) & (teacher == NEVER)
    own = student + math.log1p(-teacher_share)
    return torch.logaddexp(own, teacher.masked_fill(absent, 0.0) + math.log(teacher_share))


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """exp(top − bottom), and 0 where top is −inf."""
    return (top - bottom).exp().masked_fill(top == NEVER, 0.0)
