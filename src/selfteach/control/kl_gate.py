"""A coefficient that goes out as the student leaves its teacher (TT-OPD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfteach.checks import require
from selfteach.settings import NonNegativeFloat, UnitInterval, settings


@settings
class KLGate:
    """The whole coefficient while KL(student‖teacher) is at most ``kl_low``, the share ``kl_floor`` of it from
    ``kl_high`` on, in a line between.

    The controllers of TT-OPD's later runs (arXiv 2605.02943). The KL is ``kl/teacher``, the last step's mean of
    log π − log q over the written tokens, in nats a token.
    """

    kl_low: NonNegativeFloat = 0.3
    """Nats a token up to which the coefficient is whole (released: 0.3)."""
    kl_high: NonNegativeFloat = 0.7
    """Nats a token from which on the floor is left (released: 0.7)."""
    kl_floor: UnitInterval = 0.0
    """Share of the coefficient that is never taken away (released: 0, later a coefficient of 0.1 of 2)."""
    monotone: bool = True
    """Never raise it again (the authors' advice: distillation that is turned on again made gradients explode)."""

    def __post_init__(self) -> None:
        require(self.kl_low < self.kl_high, f"kl_low {self.kl_low} must lie below kl_high {self.kl_high}")

    def share(self, kl: float) -> float:
        """What is left of the coefficient at this KL, in [kl_floor, 1]."""
        left = (self.kl_high - kl) / (self.kl_high - self.kl_low)
        return max(self.kl_floor, min(1.0, left))

    def of(self, coefficient: float) -> KLGateOf:
        """For this coefficient."""
        return KLGateOf(self, coefficient)


@dataclass(frozen=True)
class KLGateOf:
    """``KLGate`` for the coefficient ``whole``."""

    spec: KLGate
    whole: float

    def start(self, seed: int) -> KLGateController:
        """A controller that has seen nothing. It draws no random numbers: ``seed`` changes nothing."""
        return KLGateController(self)


class KLGateController:
    """The running share. It reads ``kl/teacher`` of each step's row."""

    def __init__(self, gate: KLGateOf) -> None:
        self.gate, self.share = gate, 1.0

    def choose(self, progress: float) -> float:
        return self.gate.whole * self.share

    def observe(self, row: Mapping[str, Any]) -> None:
        now = self.gate.spec.share(float(row["kl/teacher"]))
        self.share = min(self.share, now) if self.gate.spec.monotone else now

    def state(self) -> dict[str, Any]:
        return {"share": self.share}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.share = state["share"]
