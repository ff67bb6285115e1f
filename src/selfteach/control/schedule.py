"""Coefficients that follow the step number: pure functions, nothing to remember."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HoldThenDecay:
    """``start`` for the first ``hold`` steps, then linearly to 0 over ``decay`` steps, then 0 for ever.

    TRACE: (0.5, 10, 30). CEPO: hold 0, decay 25. A term whose coefficient is 0 needs no teacher: see ``over``.
    """

    start: float
    hold: int
    decay: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.hold < 0 or self.decay < 1:
            raise ValueError(f"start and hold must be 0 or more and decay at least 1, got {self}")

    def at(self, step: int) -> float:
        """The coefficient at ``step`` = 0, 1, 2 …"""
        return self.start * min(1.0, max(0.0, 1 - (step - self.hold) / self.decay))

    def over(self, step: int) -> bool:
        """Whether it is 0 now and stays so."""
        return self.start == 0 or step >= self.hold + self.decay
