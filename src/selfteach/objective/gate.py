"""Detached functions of the very logits that a term's loss is made from: factors of its weight, and advantages.

As statistics of the present policy they would cost a forward pass of their own; at the position they cost none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions, Temperature
from selfteach.objective.sampled import importance_ratio

Gate = Callable[[Positions], Float[Tensor, "P"]]
"""Positions → [P] factors. It may carry ``roles``, those that it reads: rows without them are not selected."""


@dataclass(frozen=True)
class At:
    """A function of the positions as gate or advantage, and the ``roles`` that it reads."""

    function: Gate
    roles: tuple[str, ...] = (STUDENT,)

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        return self.function(at)


@dataclass(frozen=True)
class GateProduct:
    """Of several gates."""

    gates: tuple[Gate, ...]

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        return math.prod((gate(at) for gate in self.gates[1:]), start=self.gates[0](at))

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(role for gate in self.gates for role in getattr(gate, "roles", ())))


@dataclass(frozen=True)
class SamplerCorrection:
    """min(π/μ, ``cap``) of the tokens that a sampler drew with log-probs μ = ``behavior`` [N, T] (nats) of its own, as
    in arithmetic of another precision; 1 where nobody drew the token (NaN): truncated importance sampling.

    ``before`` [N, T]: log π as it was when the batch was begun, where the weights have moved since (None: it is π).
    """

    behavior: Float[Tensor, "N T"]
    cap: float
    temperature: Temperature = 1.0
    before: Float[Tensor, "N T"] | None = None
    role: str = STUDENT

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        policy, drawn = self.both(at)
        ratio = importance_ratio(policy, drawn.nan_to_num(0.0), self.cap)
        return ratio.masked_fill(drawn.isnan(), 1.0)

    def difference(self, at: Positions) -> Float[Tensor, "P"]:
        """log π − log μ (nats), NaN where nobody drew the token."""
        policy, drawn = self.both(at)
        return policy - drawn

    def both(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
        """(log π, log μ)."""
        if self.before is None:
            policy = at.sampled(self.role, self.temperature)
        else:
            policy = torch.as_tensor(at.column(self.before, "before"))
        return policy, torch.as_tensor(at.column(self.behavior, "behavior")).to(policy.dtype)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)


@dataclass(frozen=True)
class ImportanceRatio:
    """min(π/μ, ``cap``) of the sampled token: ``role`` now over ``behavior`` [N, T] (nats), who wrote it.

    ValueError where ``behavior`` is NaN or +inf: an unknown ratio is not 1.
    """

    behavior: Float[Tensor, "N T"]
    cap: float | None = None
    temperature: Temperature = 1.0
    role: str = STUDENT

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        policy = at.sampled(self.role, self.temperature)
        return importance_ratio(policy, at.known(self.behavior, "behavior").to(policy.dtype), self.cap)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)


@dataclass(frozen=True)
class Surer:
    """w = m / (m + H(q) + ``eps``) of a teacher q whose m = max(0, log q(y) − log p(y)) speaks for the sampled token,
    H(q) its entropy (nats): near 1 where the teacher is sure that the token is better than the student thinks (Many
    Faces's Wiener weight). ``rest``: 1 − w."""

    teacher: str
    eps: float = 1e-8
    temperature: Temperature = 1.0
    rest: bool = False
    role: str = STUDENT

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        own, theirs = (at.sampled(name, self.temperature) for name in self.roles)
        gained = (theirs - own).clamp(min=0)
        entropy: Tensor = torch.special.entr(at.probs(self.teacher, self.temperature)).sum(-1)
        weight: Tensor = gained / (gained + entropy + self.eps)
        return 1 - weight if self.rest else weight

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role, self.teacher)


@dataclass(frozen=True)
class LogRatio:
    """``target`` [N, T] (nats) − log π of the sampled token, held within ± ``bound`` (None: unbounded): the advantage
    of on-policy distillation, ``role`` being the policy as it is now.

    ValueError where ``target`` is NaN or +inf.
    """

    target: Float[Tensor, "N T"]
    bound: float | None = None
    temperature: Temperature = 1.0
    role: str = STUDENT

    def __call__(self, at: Positions) -> Float[Tensor, "P"]:
        policy = at.sampled(self.role, self.temperature).detach()
        ratio = at.known(self.target, "the advantage's target").to(policy.dtype) - policy
        return ratio if self.bound is None else ratio.clamp(-self.bound, self.bound)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)
