"""Whose weights a role scores with: specifications only; what is held for them is in ``store``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

POLICY = "policy"
"""The trained weights of a run that trains one model."""


@dataclass(frozen=True)
class Live:
    """The trained weights ``of`` as they are now."""

    of: str = POLICY


@dataclass(frozen=True)
class Frozen:
    """The trained weights as the stage began. With LoRA in a first stage: the adapters switched off, which costs
    nothing (OPSD)."""

    of: str = POLICY


@dataclass(frozen=True)
class EMA:
    """An exponential moving average of the trained weights (OPSD, TT-OPD, SDPO).

    Every ``every`` optimizer steps ema ← ema + gate · (1 − decay) · (θ − ema), and every ``copy_every`` steps (0:
    never) ema ← θ. It starts as the stage's initial weights with ``from_start`` (SRPO, SDPO), else as a copy at the
    first of these steps (OPSD's released code); until then the role scores with the weights as they are. ``gate``: a
    factor from the metrics row last observed (none, and before any: 1); a module's function or a frozen dataclass, so
    that equal specifications are equal. ``lasting``: a stage that names it goes on where the last one that did left it
    (pi-Play). Raises ValueError for a setting out of range.
    """

    decay: float = 0.999
    every: int = 1
    copy_every: int = 0
    from_start: bool = False
    of: str = POLICY
    gate: Callable[[Mapping[str, Any]], float] | None = None
    lasting: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {self.decay}")
        if self.every < 1 or self.copy_every < 0:
            raise ValueError(f"every must be at least 1 step and copy_every 0 or more, got {self}")


@dataclass(frozen=True)
class Lagged:
    """A copy that is brought up to date every ``every`` optimizer steps, or batches (TRACE, SD-Zero).

    Raises ValueError for ``every`` below 1.
    """

    every: int
    unit: Literal["step", "batch"] = "step"
    of: str = POLICY

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 {self.unit}, got {self.every}")


@dataclass(frozen=True)
class Ring:
    """The copy taken ``k`` · ``every`` optimizer steps before the last one; the stage's initial weights until there is
    one. A copy is taken every ``every`` steps, k + 1 of them are held. Raises ValueError for numbers below 1."""

    k: int
    every: int = 1
    of: str = POLICY

    def __post_init__(self) -> None:
        if self.k < 1 or self.every < 1:
            raise ValueError(f"k and every must be at least 1, got {self}")


@dataclass(frozen=True)
class Snapshot:
    """The trained weights as they were at the start or end of the named stage."""

    stage: str
    at: Literal["start", "end"] = "end"
    of: str = POLICY


@dataclass(frozen=True)
class Random:
    """A fresh initialization of the same architecture: a role that knows nothing."""

    seed: int = 0
    of: str = POLICY


@dataclass(frozen=True)
class External:
    """Another model of the same tokenizer, frozen (ExOPD, SCOPE …): a folder, a hub id or ``arena:NAME``."""

    model: str


Weights = Live | Frozen | EMA | Lagged | Ring | Snapshot | Random | External


MOVING = (Live, EMA, Lagged, Ring)
"""Specifications whose weights follow the training of their stage."""
