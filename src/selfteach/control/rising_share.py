"""A share that is raised where a held-out loss has risen: from given answers to the student's own (DistiLLM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfteach.settings import NonNegativeFloat, PositiveInt, PositiveUnit, settings


@settings
class RisingShare:
    """Every ``check_every`` steps, where the held-out loss lies at least ``tolerance`` nats a token
    above the one last remembered, add ``raise_by`` to the share (up to 1) and remember this loss.

    The adaptive scheduler of DistiLLM (arXiv 2402.03898): the share of student-written batches grows only once training
    on given answers has begun to hurt on problems not trained on. The loss is ``reference/student``, the student's
    NLL of held-out references; the first one remembered is that after the first step.
    """

    raise_by: PositiveUnit = 0.1
    """What is added each time (released code: 0.1)."""
    tolerance: NonNegativeFloat = 0.1
    """ε: how much the held-out loss must have risen, in nats a token (released scripts: 0.1)."""
    check_every: PositiveInt = 90
    """Steps between two looks at the held-out loss (released scripts: an epoch)."""

    def begun(self, first: float) -> RisingFrom:
        """With the share to begin with."""
        return RisingFrom(self, first)


@dataclass(frozen=True)
class RisingFrom:
    """``RisingShare`` from a first share on."""

    spec: RisingShare
    first: float

    def start(self, seed: int) -> RisingShareController:
        """A controller that has seen nothing. It draws no random numbers: ``seed`` changes nothing."""
        return RisingShareController(self.spec, self.first)


class RisingShareController:
    """The running share. It reads ``reference/student`` of each step's row."""

    def __init__(self, spec: RisingShare, first: float) -> None:
        self.spec, self.share, self.steps = spec, first, 0
        self.remembered: float | None = None

    def choose(self, progress: float) -> float:
        return self.share

    def observe(self, row: Mapping[str, Any]) -> None:
        loss = float(row["reference/student"])
        self.steps += 1
        if self.remembered is None:
            self.remembered = loss
        elif self.steps % self.spec.check_every == 0 and loss >= self.remembered + self.spec.tolerance:
            self.share = min(1.0, self.share + self.spec.raise_by)
            self.remembered = loss

    def state(self) -> dict[str, Any]:
        return {"share": self.share, "steps": self.steps, "remembered": self.remembered}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.share, self.steps, self.remembered = state["share"], state["steps"], state["remembered"]
