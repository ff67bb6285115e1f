"""Copies of a network that do not train: as it was when the stage began, or its running average."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class Frozen(Generic[M]):
    """A role: ``module`` is a copy of ``source`` as it was when this was made."""

    def __init__(self, source: M) -> None:
        self.module = still(source)

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"weights": dict(self.module.state_dict())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["weights"])


class Average(Frozen[M]):
    """A role: ``module`` ← decay · module + (1 − decay) · ``source`` after every batch. decay 0 is a copy that lags by
    nothing, 1 never moves."""

    def __init__(self, source: M, decay: float) -> None:
        super().__init__(source)
        self.source, self.decay = source, decay

    @torch.no_grad()
    def after_batch(self) -> None:
        now = self.source.state_dict()
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                value.lerp_(now[name], 1 - self.decay)
            else:
                value.copy_(now[name])


class WarmedAverage(Average[M]):
    """A role: an average whose decay is 1 − (1 + n)^−``power`` after n batches, ``decay`` at most, so that it forgets
    how it began (diffusers' ``EMAModel`` with warm-up, inv_gamma 1)."""

    def __init__(self, source: M, decay: float, power: float) -> None:
        super().__init__(source, decay)
        self.largest, self.power, self.batches = decay, power, 0

    def after_batch(self) -> None:
        self.decay = min(self.largest, 1 - (1 + self.batches) ** -self.power)
        super().after_batch()
        self.batches += 1

    def state(self) -> dict[str, Any]:
        return {**super().state(), "batches": self.batches}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.batches = state["batches"]


class LateAverage(Average[M]):
    """A role: the ``source`` itself until batch ``start`` (from 0), from then on its average over the batches in which
    the optimizer called ``moves`` stepped."""

    def __init__(self, source: M, decay: float, start: int, moves: str) -> None:
        super().__init__(source, decay)
        self.start, self.moves, self.batches, self.moved = start, moves, 0, False

    def after_step(self, moved: Collection[str]) -> None:
        self.moved = self.moved or self.moves in moved

    def after_batch(self) -> None:
        if self.batches < self.start:
            self.module.load_state_dict(self.source.state_dict())
        elif self.moved:
            super().after_batch()
        self.batches, self.moved = self.batches + 1, False

    def state(self) -> dict[str, Any]:
        return {**super().state(), "batches": self.batches}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.batches = state["batches"]


def still(source: M) -> M:
    """A copy whose parameters want no gradient."""
    return copy.deepcopy(source).requires_grad_(False)
