"""Detached factors of a term's weight that are made from the very logits its loss is made from."""

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

    As a statistic of the present policy it would cost a forward pass of its own; here it costs none. ValueError where
    ``behavior`` is NaN or +inf: an unknown ratio is not 1.
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
