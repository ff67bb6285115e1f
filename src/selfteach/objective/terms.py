"""The summands of a loss. Each is a sum over tokens of (constant weight × that token's loss).

A term says which tokens count (``where``), how much (``weight``), what they are divided by (``mean_over``) and
what one token's loss is. The first three are fixed before any gradient is taken; the last needs one position's
logits only. So terms can be summed in chunks of positions, micro-batches and processes with the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from selfteach.objective import sampled
from selfteach.objective.batch import STUDENT
from selfteach.objective.divisor import Divisor, Reduction
from selfteach.objective.entrywise import Divergence
from selfteach.objective.gate import Gate
from selfteach.objective.positions import Positions, Same, Temperature
from selfteach.objective.support import Full, Support, likeliest_read
from selfteach.objective.target import FromRole, Likeliest, Target

Signal = Literal["full", "sampled", "features"]


def of_the_recipe(at: Positions) -> Float[Tensor, "P"]:
    """The temperature of a term that names none: its recipe's (``Term.tempered``); 1 of a term without a recipe."""
    return torch.ones(len(at.ids), device=at.ids.device)


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """One summand: coefficient · Σ weight · gate · loss / divisor over the selected positions.

    ``role``: whose logits (or features) get the gradient; every other role is read without. ``weight`` and ``where``:
    number, [N] or [N, T], without gradient. ``mean_over``: a ``Divisor`` or the short name of one ("tokens": all
    written tokens of the batch, "selected": those selected here, "sequences": each row's mean over its written tokens,
    then the mean over rows with any selected token, "rollouts": each row's sum, then that mean, "sum": nothing), a
    number, or a bool tensor [N, T] whose True entries are counted (a divisor shared between terms).

    Rows and positions where a role that the term reads saw nothing are neither selected nor counted as written.
    ``informed_by``: roles whose statistics went into weight or advantage, with the signal that these took: they count
    as read. ``gate``: positions → [P], without gradient; it multiplies the weight at the positions visited, and enters
    neither ``where`` nor the divisor.
    """

    name: str
    role: str = STUDENT
    weight: Real[Tensor, ""] | Real[Tensor, "N"] | Real[Tensor, "N T"] | float = 1.0
    where: Bool[Tensor, "N"] | Bool[Tensor, "N T"] | None = None
    mean_over: Reduction | Divisor | Bool[Tensor, "N T"] | float = "tokens"
    coefficient: float = 1.0
    gate: Gate | None = None
    informed_by: Mapping[str, Signal] = field(default_factory=dict)

    trains: ClassVar[Literal["logits", "features"]] = "logits"
    """What of the role the gradient is taken in."""
    placed: ClassVar[tuple[str, ...]] = ("where", "weight")
    """The fields that are columns of the whole batch: a number, [N] or [N, T]."""

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        """What the loss itself reads of each role, its own included."""
        return {self.role: "full"}

    @property
    def reads(self) -> Mapping[str, Signal]:
        """Role → the most that loss, gate or statistics of the term read of it."""
        found: dict[str, Signal] = dict(self.own_reads)
        gated: dict[str, Signal] = dict.fromkeys(getattr(self.gate, "roles", ()), "sampled")
        for role, signal in [*gated.items(), *self.informed_by.items()]:
            found[role] = "full" if "full" in (signal, found.get(role)) else found.get(role, signal)
        return found

    @property
    def visited(self) -> tuple[str, ...]:
        """The roles that must be at hand where the loss is taken."""
        return tuple(dict.fromkeys((*self.own_reads, *getattr(self.gate, "roles", ()))))

    def tempered(self, temperature: Temperature) -> Term:
        """The term at this temperature, unless it has one of its own."""
        if getattr(self, "temperature", None) is not of_the_recipe:
            return self
        return replace(self, temperature=temperature)  # type: ignore[call-arg]

    def planned(self, chosen: Bool[Tensor, "N T"]) -> Term:
        """The term once it is known which tokens [N, T] it selects over the whole batch."""
        return self

    def noted(self, at: Positions) -> Mapping[str, Float[Tensor, "P"]]:
        """What is written down of each position beside its loss and weight, by kind, without gradient."""
        return {}

    @abstractmethod
    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        """[P] loss of each position in nats, differentiable in the role's logits (or features)."""

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]] | None:
        """([P] ``token_loss``, [P, V] its gradient in the role's logits) in closed form, called without
        gradient; None (the default): there is none, autograd is to find it.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Match(Term):
    """Pull the role's whole next-token distribution to a target (OPSD and most others).

    Both sides are divided by ``temperature`` before the softmax (``target_temperature`` if the target's roles'
    differs). The support is cut before the divergence is taken; a function of the positions gives one whose settings
    differ by place, such as each row's skew (DistiLLM-2). ``ceiling``: upper bound on a token's loss (nats); what
    exceeds it has no gradient.
    """

    target: Target
    divergence: Divergence | Callable[[Positions], Divergence]
    support: Support = field(default_factory=Full)
    temperature: Temperature = of_the_recipe
    target_temperature: Temperature | None = None
    ceiling: float | None = None

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        return dict.fromkeys((self.role, *self.target.names), "full")

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        loss = self.divergence_at(at)(*self.support.restrict(*own_and_target(self, at)))
        return loss if self.ceiling is None else loss.clamp(max=self.ceiling)

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]]:
        sides, divergence = own_and_target(self, at), self.divergence_at(at)
        if isinstance(self.support, Full):
            loss, gradient = divergence.value_and_logit_gradient(*sides, *self._probs(at))
        else:
            loss, gradient = self.support.value_and_logit_gradient(divergence, *sides)
        if self.ceiling is not None:
            gradient = gradient.masked_fill((loss > self.ceiling).unsqueeze(-1), 0.0)
            loss = loss.clamp(max=self.ceiling)
        return loss, at.divided(gradient, self.temperature)

    def divergence_at(self, at: Positions) -> Divergence:
        return self.divergence if isinstance(self.divergence, Divergence) else self.divergence(at)

    def _probs(
        self, at: Positions
    ) -> tuple[Float[Tensor, "P V"] | None, Callable[[], Float[Tensor, "P V"]] | None]:
        """Both sides' probabilities, as far as others may want them too."""
        own, theirs = self.temperature, _target_temperature(self)
        p = at.probs(self.role, own) if isinstance(own, int | float) else None
        plain = isinstance(self.target, FromRole) and isinstance(theirs, int | float)
        return p, partial(at.probs, self.target.names[0], theirs) if plain else None


@dataclass(frozen=True, kw_only=True)
class OfSampledToken(Term):
    """A term whose gradient passes through one number a position: the sampled token's log-prob (nats)."""

    temperature: Temperature = of_the_recipe

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        return {self.role: "sampled"}

    @abstractmethod
    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        """[P] losses, differentiable in the role's log-probs [P] of the sampled tokens."""

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        return self.sampled_loss(at.sampled(self.role, self.temperature), at)

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]]:
        log_prob = at.sampled(self.role, self.temperature).requires_grad_()
        with torch.enable_grad():
            loss = self.sampled_loss(log_prob, at)
            (slope,) = torch.autograd.grad(loss.sum(), log_prob)
        slope = slope.unsqueeze(-1)
        gradient = at.probs(self.role, self.temperature) * -slope
        gradient.scatter_add_(-1, at.ids.unsqueeze(-1), slope)
        return loss.detach(), at.divided(gradient, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Sampled(OfSampledToken):
    """A function of the sampled token's log-probs: ``function(log p(y), log target(y))`` → [P] losses.

    ``sampled.distillation`` (the default) is −sg[log target(y) − log p(y)] · log p(y), whose mean over y ~ p is
    ∇KL(p‖target) (OPSD variant, ExOPD); ``sampled.k2`` and ``sampled.k3`` are the estimators of that name as
    differentiable losses (CurioSFT); any other will do. ``control_variate``: a support over which KL(p‖target) is taken
    as the closed-form baseline of that policy gradient (vOPD); it adds −sg[KL] · log p(y).
    """

    target: Target
    function: Callable[[Float[Tensor, "P"], Float[Tensor, "P"]], Float[Tensor, "P"]] = sampled.distillation
    target_temperature: Temperature | None = None
    control_variate: Support | None = None

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        alone = self.target.elementwise and self.control_variate is None
        signal: Signal = "sampled" if alone else "full"
        return dict.fromkeys((self.role, *self.target.names), signal)

    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        if self.control_variate is None:
            return self.function(log_prob, self.sampled_target(log_prob, at))
        theirs, baseline = self.sampled_target(log_prob, at), self.baseline(at)
        return self.function(log_prob, theirs) + sampled.policy_gradient(log_prob, baseline)

    def baseline(self, at: Positions) -> Float[Tensor, "P"]:
        """[P] the closed-form baseline (nats), 0 where there is none."""
        support = self.control_variate
        if support is None:
            return torch.zeros(at.ids.shape, device=at.ids.device)
        return at.once(
            ("baseline", Same(self)), lambda: sampled.control_variate(*own_and_target(self, at), support)
        )

    @torch.no_grad()
    def noted(self, at: Positions) -> Mapping[str, Float[Tensor, "P"]]:
        if self.function is not sampled.distillation:
            return {}
        own = at.sampled(self.role, self.temperature)
        return {"advantage": self.sampled_target(own, at) - own + self.baseline(at)}

    def sampled_target(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        """[P] log target(y), from the sampled tokens alone where the target allows it."""
        if not self.target.elementwise:
            ids = at.ids.unsqueeze(-1)
            return at.once(
                ("target", Same(self)), lambda: own_and_target(self, at)[1].gather(-1, ids).squeeze(-1)
            )
        temperature = _target_temperature(self)
        with torch.no_grad():
            own = log_prob.detach().unsqueeze(-1)
            roles = {
                name: at.sampled(name, temperature).to(own.dtype).unsqueeze(-1) for name in self.target.names
            }
            return self.target.log_probs(own, roles).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(OfSampledToken):
    """−A · log π of the sampled token, or PPO's clipped surrogate when ``clip`` = (low, high) is given.

    ``advantage`` [N] or [N, T], signed, constant; or a function of the positions → [P], taken without gradient, such as
    ``LogRatio`` (its ``roles`` are read). The ratio π/behavior needs ``behavior`` [N, T]. ValueError where either is
    NaN or +inf at a selected token.
    """

    advantage: Float[Tensor, "N"] | Float[Tensor, "N T"] | Gate
    behavior: Float[Tensor, "N T"] | None = None
    clip: tuple[float, float] | None = None

    placed: ClassVar[tuple[str, ...]] = (*OfSampledToken.placed, "advantage", "behavior")

    def __post_init__(self) -> None:
        if self.clip is not None and self.behavior is None:
            raise ValueError("clip needs behavior: the ratio to clip is policy over behavior")

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        return dict.fromkeys((self.role, *getattr(self.advantage, "roles", ())), "sampled")

    def noted(self, at: Positions) -> Mapping[str, Float[Tensor, "P"]]:
        return {"advantage": self.advantage_at(at)} if callable(self.advantage) else {}

    @torch.no_grad()
    def advantage_at(self, at: Positions) -> Float[Tensor, "P"]:
        """[P] the advantage. ValueError where it is NaN or +inf."""
        function = self.advantage
        if not callable(function):
            return at.known(function, "advantage")
        return at.once(("advantage", Same(self)), lambda: at.refused(function(at).detach(), "advantage"))

    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        advantage = self.advantage_at(at).to(log_prob.dtype)
        if self.clip is None or self.behavior is None:
            return sampled.policy_gradient(log_prob, advantage)
        behavior = at.known(self.behavior, "behavior").to(log_prob.dtype)
        return sampled.clipped_surrogate(log_prob, behavior, advantage, *self.clip)


@dataclass(frozen=True, kw_only=True)
class OfColumns(OfSampledToken):
    """Any function of the sampled token's log-prob and of columns of the batch: ``function(log π, **columns)`` → [P]
    losses, differentiable in the first.

    ``columns``: name → number, [N] or [N, T], constant (log-probs that roles gave, advantages, marks). Name the roles
    that they came from in ``informed_by``. One called "behavior" is the sampler's log-prob, so that the function's own
    ratio corrects for the sampler; one called "advantage" is written down. ValueError where one is NaN or +inf at a
    selected token.
    """

    function: Callable[..., Float[Tensor, "P"]]
    columns: Mapping[str, Real[Tensor, ""] | Real[Tensor, "N"] | Real[Tensor, "N T"] | float]

    @property
    def behavior(self) -> Real[Tensor, ""] | Real[Tensor, "N"] | Real[Tensor, "N T"] | float | None:
        return self.columns.get("behavior")

    def noted(self, at: Positions) -> Mapping[str, Float[Tensor, "P"]]:
        return {name: at.known(self.columns[name], name) for name in ("advantage",) if name in self.columns}

    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        known = {name: at.known(values, name).to(log_prob.dtype) for name, values in self.columns.items()}
        return self.function(log_prob, **known)


@dataclass(frozen=True, kw_only=True)
class NegativeLogLikelihood(OfSampledToken):
    """−log π of each token: supervised fine-tuning, or likelihood of the policy's own good answers.

    At temperature 1 unless the term names another: the likelihood of a text, not that of sampling it.
    """

    temperature: Temperature = 1.0

    def sampled_loss(self, log_prob: Float[Tensor, "P"], at: Positions) -> Float[Tensor, "P"]:
        return -log_prob


@dataclass(frozen=True, kw_only=True)
class LikelihoodOf(Term):
    """−log π (nats) of one ``token`` (id) at every position, whatever was sampled there.

    Of the end of a turn it is a guard against growing length (Many Faces). Gradient in the logits: p − [j = token],
    over the temperature.
    """

    token: int
    temperature: Temperature = of_the_recipe

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        return -at.log_probs(self.role, self.temperature)[:, self.token]

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]]:
        gradient = at.probs(self.role, self.temperature).clone()
        gradient[:, self.token] -= 1
        return self.token_loss(at), at.divided(gradient, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Entropy(Term):
    """−H of the role's next-token distribution (nats), a bonus for staying undecided; ``penalty``: +H instead.

    Gradient of H in the logits: −p_j (log p_j + H), over the temperature.
    """

    temperature: Temperature = of_the_recipe
    penalty: bool = False

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        log_probs = at.log_probs(self.role, self.temperature)
        weighted = log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)
        return -weighted.sum(-1) if self.penalty else weighted.sum(-1)

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]]:
        log_probs, chance = (read(self.role, self.temperature) for read in (at.log_probs, at.probs))
        weighted = chance * log_probs.masked_fill(log_probs == -torch.inf, 0.0)
        loss = weighted.sum(-1)
        gradient = at.divided(torch.addcmul(weighted, chance, loss.unsqueeze(-1), value=-1), self.temperature)
        return (-loss, -gradient) if self.penalty else (loss, gradient)


def own_and_target(term: Match | Sampled, at: Positions) -> tuple[Float[Tensor, "P V"], Float[Tensor, "P V"]]:
    """([P, V] the role's log-probs with gradient, [P, V] target log-probs without)."""
    temperature, likeliest = _target_temperature(term), _likeliest_read(term)
    own = at.log_probs(term.role, term.temperature)
    with torch.no_grad():
        roles = {name: at.log_probs(name, temperature, likeliest) for name in term.target.names}
        target = term.target.log_probs(own.detach(), roles)
    return own, target


def _likeliest_read(term: Match | Sampled) -> int | None:
    """How many of its role's likeliest tokens the target is read on, beside the mass of the others; None: on any."""
    if isinstance(term.target, Likeliest):
        return term.target.k
    if not isinstance(term.target, FromRole):
        return None
    return likeliest_read(term.support if isinstance(term, Match) else term.control_variate)


def _target_temperature(term: Match | Sampled) -> Temperature:
    return term.temperature if term.target_temperature is None else term.target_temperature
