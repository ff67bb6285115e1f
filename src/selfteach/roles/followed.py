"""How the copies for one specification of weights follow training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from selfteach.roles.copies import Copy
from selfteach.roles.weights import EMA, Frozen, Lagged, Ring, Weights


class Followed:
    """The copies held for one specification, the one that is scored with first (none: the weights as they are)."""

    def __init__(self, spec: Weights, take: Callable[[], Copy], fixed: Callable[[], Copy]) -> None:
        self.spec, self.take = spec, take
        self.steps = self.batches = 0
        self.gate = 1.0
        self.copies: list[Copy] = []
        match spec:
            case Frozen():
                self.copies = [fixed()]
            case Lagged() | Ring() | EMA(from_start=True):
                self.copies = [take()]

    @property
    def to_come(self) -> int:
        """Copies that training will still add."""
        match self.spec:
            case EMA():
                return 1 - len(self.copies)
            case Ring():
                return self.spec.k + 1 - len(self.copies)
        return 0

    def after_step(self) -> None:
        self.steps += 1
        match self.spec:
            case Lagged(unit="step") if self.steps % self.spec.every == 0:
                self.copies[0].take()
            case EMA():
                self._average(self.spec)
            case Ring() if self.steps % self.spec.every == 0:
                if self.to_come:
                    self.copies.append(self.take())
                else:
                    self.copies.append(self.copies.pop(0))
                    self.copies[-1].take()

    def after_batch(self) -> None:
        self.batches += 1
        if (
            isinstance(self.spec, Lagged)
            and self.spec.unit == "batch"
            and self.batches % self.spec.every == 0
        ):
            self.copies[0].take()

    def observe(self, row: Mapping[str, Any]) -> None:
        if isinstance(self.spec, EMA) and self.spec.gate is not None:
            self.gate = float(self.spec.gate(row))
            if not math.isfinite(self.gate):
                raise ValueError(f"the gate of {self.spec} gave {self.gate}")

    def _average(self, spec: EMA) -> None:
        renewed = bool(spec.copy_every) and self.steps % spec.copy_every == 0
        if not renewed and self.steps % spec.every:
            return
        if not self.copies:
            self.copies = [self.take()]
        else:
            self.copies[0].take(1.0 if renewed else self.gate * (1 - spec.decay))

    def state(self) -> dict[str, Any]:
        copies = [one.tensors() for one in self.copies]
        return {"steps": self.steps, "batches": self.batches, "gate": self.gate, "copies": copies}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps, self.batches, self.gate = state["steps"], state["batches"], state["gate"]
        missing = len(state["copies"]) - len(self.copies)
        self.copies += [self.take() for _ in range(missing)]
        for one, tensors in zip(self.copies, state["copies"], strict=True):
            one.load(tensors)
