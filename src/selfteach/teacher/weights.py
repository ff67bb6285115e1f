"""Whose weights a teacher scores with: the student's own now, then, averaged, or another model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfteach.policy.loading import Policy


@dataclass(frozen=True)
class Live:
    """The student's current weights, without gradient."""


@dataclass(frozen=True)
class Frozen:
    """The policy as the stage began: a copy of the trainable weights; with LoRA in a first stage, the adapters switched
    off, which costs nothing (card 01)."""


@dataclass(frozen=True)
class EMA:
    """An exponential moving average of the trainable weights (card 01, card 28).

    After every optimizer step ema ← decay · ema + (1 − decay) · θ. It starts as the initial weights with
    ``from_start`` (cards 15, 28), else as a copy after the first step (card 01's released code); until then the teacher
    is the student either way.
    """

    decay: float = 0.999
    from_start: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], got {self.decay}")


@dataclass(frozen=True)
class Lagged:
    """A copy of the student that is brought up to date every ``every`` optimizer steps (cards 04, 10)."""

    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")


@dataclass(frozen=True)
class External:
    """Another model of the same tokenizer, frozen (cards 33, 37, 41): a folder, a hub id or ``arena:NAME``."""

    model: str


Weights = Live | Frozen | EMA | Lagged | External


class TeacherWeights:
    """The running state of one teacher's weights; what of it must be kept is in ``state()``.

    ``trained``: the student's adapters have been trained already, in an earlier stage, so that switching them off would
    give the base model instead of the policy as it is now.
    """

    def __init__(
        self, spec: Weights, student: Policy, external: Policy | None = None, *, trained: bool = False
    ) -> None:
        self.spec, self.student, self.external = spec, student, external
        self.tensors: dict[str, Tensor] | None = None
        self.steps = 0
        begins_as_a_copy = (
            isinstance(spec, Lagged)
            or (isinstance(spec, Frozen) and (trained or not student.adapted))
            or (isinstance(spec, EMA) and spec.from_start)
        )
        if begins_as_a_copy:
            self.tensors = copied(student)

    @property
    def policy(self) -> Policy:
        return self.external if self.external is not None else self.student

    @contextmanager
    def in_place(self) -> Iterator[Policy]:
        """Inside, ``policy.model`` computes with this teacher's weights; outside, nothing has changed."""
        if self.tensors is not None:
            with swapped(self.student, self.tensors):
                yield self.student
        elif isinstance(self.spec, Frozen):
            with self.student.adapters_off():
                yield self.student
        else:
            yield self.policy

    def after_step(self) -> None:
        """Tell the teacher that the student took an optimizer step."""
        self.steps += 1
        if isinstance(self.spec, Lagged) and self.steps % self.spec.every == 0:
            self.tensors = copied(self.student)
        if not isinstance(self.spec, EMA):
            return
        if self.tensors is None:
            self.tensors = copied(self.student)
            return
        with torch.no_grad():
            for name, parameter in self.student.trainable().items():
                self.tensors[name].lerp_(parameter.detach(), 1 - self.spec.decay)

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "tensors": {} if self.tensors is None else dict(self.tensors)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps, tensors = state["steps"], state["tensors"]
        if not tensors:
            return
        self.tensors = {
            name: tensors[name].to(parameter.device, copy=True)
            for name, parameter in self.student.trainable().items()
        }


def copied(policy: Policy) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.trainable().items()}


@contextmanager
def swapped(policy: Policy, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Exchange the trainable parameters' storage with ``tensors`` for a while: no copy, no second model."""
    parameters = policy.trainable()
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tensors[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
