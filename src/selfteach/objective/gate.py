"""Detached functions of the very logits that a term's loss is made from: factors of its weight, and advantages.

As statistics of the present policy they would cost a forward pass of their own; at the position they cost none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions, Temperature
from selfteach.objective.sampled import importance_ratio

Gate = Callable[[Positions], Float[Tensor, "P"]]
"""Positions → [P] factors. It may carry ``roles``, those that it reads: rows without them are not selected."""


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
