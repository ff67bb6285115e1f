"""What a role is pulled to: one log-distribution made from one or more other roles, without gradient.

A target names the roles it needs (``names``) and combines their log-probs [..., V], and sometimes those of the role
that is trained (``own``), into log-probs [..., V]. p is the trained role, q another. Log-linear targets Π_i p_i^(c_i)
give 0 to every token to which a distribution with c_i ≠ 0 gives 0, whatever the sign of c_i; a position left without
any token is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce, wraps
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from selfteach.objective.axes import LogProbs
from selfteach.objective.entrywise import NEVER, check_log_probs
from selfteach.objective.top import top_ids


class Target(Protocol):
    """A map from log-distributions by role to the one that the trained role is to match."""

    @property
    def names(self) -> tuple[str, ...]:
        """The roles needed, each once."""

    @property
    def elementwise(self) -> bool:
        """Whether a token's target needs that token's log-probs alone, so that V may be any part of the vocabulary."""

    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        """[..., V] log-probs of the trained role and of the others by name → [..., V], no gradient.

        ValueError: a role is missing, shapes or types differ, a log-linear target has no token left.
        """


_Rule = Callable[[Any, LogProbs, Mapping[str, LogProbs]], LogProbs]


def _on_checked_input(rule: _Rule) -> _Rule:
    @wraps(rule)
    @torch.no_grad()
    def log_probs(self: Target, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        for name in self.names:
            if name not in roles:
                raise ValueError(f"roles lack {name!r}, which {self} needs; there are {sorted(roles)}")
            check_log_probs(own, roles[name], teacher_name=name)
        return rule(self, own, roles)

    return log_probs


@dataclass(frozen=True)
class FromRole:
    """Another role's distribution as it is."""

    name: str
    elementwise: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        return roles[self.name].detach()


@dataclass(frozen=True)
class Likeliest:
    """Another role's ``k`` likeliest tokens, rescaled to sum to 1, and 0 for all others (EOPD). A vocabulary of at most
    ``k`` is kept whole. Unlike ``TopK`` it leaves the trained role's distribution over the whole vocabulary."""

    name: str
    k: int
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        whole = roles[self.name].detach()
        if self.k >= whole.shape[-1]:
            return whole
        ids = top_ids(whole, self.k)
        kept = whole.gather(-1, ids).log_softmax(-1)
        # NaN counts as largest: where one stands, it is among the kept.
        spoiled = kept[..., :1].isnan().expand_as(whole)
        return torch.full_like(whole, NEVER).masked_fill(spoiled, torch.nan).scatter(-1, ids, kept)


@dataclass(frozen=True)
class _Pool:
    """``weights``: role → share, positive, summing to 1."""

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not all(weight > 0 for weight in self.weights.values()):
            raise ValueError(f"weights must be positive, got {dict(self.weights)}")
        if not math.isclose(sum(self.weights.values()), 1.0, rel_tol=1e-6):
            raise ValueError(f"weights must sum to 1, got {dict(self.weights)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weights)


@dataclass(frozen=True)
class Mixture(_Pool):
    """Σ_i w_i q_i: the arithmetic mean, which minimizes Σ_i w_i KL(q_i ‖ r) over r (Many Faces, AVSD)."""

    elementwise: ClassVar[bool] = True

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        return _log_mean((roles[name], weight) for name, weight in self.weights.items())


@dataclass(frozen=True)
class GeometricMean(_Pool):
    """∝ Π_i q_i^(w_i): a product of experts, which minimizes Σ_i w_i KL(r ‖ q_i) over r (Many Faces, AVSD).

    ``renormalize=False`` leaves Σ_i w_i log q_i as it is, with a sum of at most 1.
    """

    renormalize: bool = True

    @property
    def elementwise(self) -> bool:
        return not self.renormalize

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        product = _log_product((roles[name], weight) for name, weight in self.weights.items())
        return _normalized(product) if self.renormalize else product


@dataclass(frozen=True)
class Extrapolation:
    """∝ reference^(1−λ) · teacher^λ, λ = ``strength`` ≥ 0: the optimum of G-OPD (https://arxiv.org/abs/2602.12125).

    λ = 0 is the reference, 1 the teacher, below 1 lies between, above 1 beyond the teacher (ExOPD: 1.25).
    """

    teacher: str
    reference: str
    strength: float
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength must be finite and not negative, got {self.strength}")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.teacher, self.reference)

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        reference, teacher = roles[self.reference], roles[self.teacher]
        return _normalized(_log_product([(reference, 1 - self.strength), (teacher, self.strength)]))


@dataclass(frozen=True)
class TrustRegion:
    """∝ reference^(1−a) · teacher^a, a = ``rate`` in [0, 1]: SDPO's lerp of logits (arXiv
    2601.20802).

    a = 0 is the reference (the frozen weights), 1 the teacher (the live weights), both under the privileged
    view.
    """

    teacher: str
    reference: str
    rate: float
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require_share("rate", self.rate)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.teacher, self.reference)

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        reference, teacher = roles[self.reference], roles[self.teacher]
        return _normalized(_log_product([(reference, 1 - self.rate), (teacher, self.rate)]))


@dataclass(frozen=True)
class AdvantageTilted:
    """∝ base · exp(A / τ), A = log teacher − log baseline: the best answer to advantage A under a KL of
    weight τ to base.

    ``base`` and ``baseline`` name roles; None is the trained one. By default both are that: p^(1−1/τ)
    q^(1/τ), a step of size 1/τ from it to the teacher in logit space (Unmasking OPD: its reverse-KL gradient is
    the ascent direction of E_p[A]). ``baseline`` the same model without the privilege tilts by what the
    privilege alone adds; base = baseline = a reference is ``Extrapolation`` with strength 1/τ.
    """

    teacher: str
    temperature: float = 1.0
    base: str | None = None
    baseline: str | None = None
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    @property
    def names(self) -> tuple[str, ...]:
        given = (self.teacher, self.base, self.baseline)
        return tuple(dict.fromkeys(name for name in given if name is not None))

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        power: dict[str | None, float] = {self.base: 1.0}
        power[self.teacher] = power.get(self.teacher, 0.0) + 1 / self.temperature
        power[self.baseline] = power.get(self.baseline, 0.0) - 1 / self.temperature
        return _normalized(_log_product((own if n is None else roles[n], c) for n, c in power.items()))


@dataclass(frozen=True)
class StudentMix:
    """(1−λ) sg[p] + λ q, λ = ``share``: a target that starts at the trained role and moves (TAID, the OPD survey).

    The same walk in logit space, p^(1−λ) q^λ, is ``AdvantageTilted(name, temperature=1/λ)``.
    """

    name: str
    share: float
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_share("share", self.share)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        return _log_mean([(own, 1 - self.share), (roles[self.name], self.share)])


@dataclass(frozen=True)
class Consensus:
    """AVSD (https://arxiv.org/abs/2605.20643): log q* = log q_G + λ J, what the views agree on plus a gated
    residual.

    Over the M views ``names``: q_G their geometric, q_A their arithmetic mean, Δ_m = log q_m − log p, A_G =
    log q_G − log p, J = max(0, log q_A − log q_G), and the gate λ = C · R with C = |A_G| / (mean_m |Δ_m| + ε)
    (1 iff the views agree in sign) and R = |A_G| / (|A_G| + J + ε). So λ lies in [0, 1] and λ J ≤ |A_G|: the residual
    never flips the sign of the consensus. M = 1 gives that view.

    By default elementwise, as the paper's sampled-token loss has it: q* then sums to less or more than 1, and
    the inputs may be [...] log-probs of single tokens. ``renormalize`` makes q_G and q* distributions over V; A_G
    stays the mean of the Δ_m, or λ could exceed 1.
    """

    names: tuple[str, ...]
    eps: float = 1e-8
    renormalize: bool = False

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names must hold at least one view, each once, got {self.names}")
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps}")

    @property
    def elementwise(self) -> bool:
        return not self.renormalize

    @_on_checked_input
    def log_probs(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> LogProbs:
        consensus, residual, gate = self.parts(own, roles)
        target = torch.where(consensus == NEVER, NEVER, consensus + gate * residual)
        return _normalized(target) if self.renormalize else target

    @torch.no_grad()
    def parts(self, own: LogProbs, roles: Mapping[str, LogProbs]) -> tuple[LogProbs, LogProbs, LogProbs]:
        """(log q_G, J, λ), each [..., V]. Limits: J = 0, λ = 0 where a view gives 0; λ = 1 where only the
        trained role does.
        """
        share = 1 / len(self.names)
        views = [(roles[name], share) for name in self.names]
        product = _log_product(views)
        geometric = _normalized(product) if self.renormalize else product
        vetoed, novel = product == NEVER, (own == NEVER) & (product != NEVER)
        finite = [(view.masked_fill(vetoed, 0.0), share) for view, _ in views]
        mine = own.masked_fill(vetoed | novel, 0.0)
        residual = (_log_mean(finite) - geometric.masked_fill(vetoed, 0.0)).clamp(min=0.0)
        consensus_advantage = (product.masked_fill(vetoed, 0.0) - mine).abs()
        mean_advantage = sum((share * (view - mine).abs() for view, _ in finite), torch.zeros_like(mine))
        agreement = consensus_advantage / (mean_advantage + self.eps)
        reliability = consensus_advantage / (consensus_advantage + residual + self.eps)
        gate = (agreement * reliability).masked_fill(novel, 1.0).masked_fill(vetoed, 0.0)
        return geometric, residual, gate


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def _log_mean(shares: Iterable[tuple[Tensor, float]]) -> Tensor:
    """log Σ_i w_i exp(x_i), two tensors at a time; members of weight 0 do not count."""
    return reduce(torch.logaddexp, (log_probs + math.log(share) for log_probs, share in shares if share > 0))


def _log_product(powers: Iterable[tuple[Tensor, float]]) -> Tensor:
    """Σ_i c_i x_i, −inf wherever a member with c_i ≠ 0 is −inf; members of power 0 do not count."""
    members = [(log_probs, power) for log_probs, power in powers if power != 0]
    absent = reduce(torch.logical_or, (log_probs == NEVER for log_probs, _ in members))
    total = reduce(torch.add, (power * log_probs for log_probs, power in members))
    return total.masked_fill(absent, NEVER)


def _normalized(log_weights: Tensor) -> Tensor:
    if bool((log_weights.amax(-1) == NEVER).any()):
        raise ValueError("roles leave no token at some position: each gets probability 0 from one of them")
    return log_weights.log_softmax(-1)
