"""What a method without tokens declares: losses of what networks put out, and who trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Float, Shaped
from torch import Tensor

from selfteach.checks import require
from selfteach.recipes.method import Method
from selfteach.settings import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    UnitInterval,
    settings,
)

Outputs = Mapping[str, Shaped[Tensor, "..."]]
"""What a loss reads, by the symbols of the recipe's paper."""


@settings
class NetworkOptimization:
    """How a network's weights move."""

    optim: Literal["sgd", "adam", "adamw"] = "adam"
    """torch's optimizers; weight decay is decoupled in adamw, and part of the gradient in the others."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    steps: PositiveInt = 1000
    """Batches."""
    batch_size: PositiveRows = 128
    """Examples of a batch."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """Shape of the learning rate after warm-up; step: a tenth after half of the steps, a hundredth after three
    quarters."""
    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""
    momentum: UnitInterval = 0.0
    """Of sgd."""
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    """Moment decays of adam and adamw."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay."""
    max_grad_norm: PositiveFloat | None = None
    """Clip the global gradient norm to this (None: no clipping)."""

    def __post_init__(self) -> None:
        require(max(self.betas) < 1, f"betas must lie in [0, 1), got {self.betas}")
        require(
            self.momentum == 0 or self.optim == "sgd",
            f"momentum is sgd's: {self.optim} has betas in its place",
        )


@settings
class NetworkRecipe(Method, ABC):
    """A method whose losses are pure functions of what networks put out; a learner brings networks, data and samples.

    ``selfteach.testing.evaluate_outputs`` computes them on given arrays.
    """

    learner: ClassVar[str] = ""
    """Who trains it: a name of ``training.learners``, or FILE:NAME of a learner of one's own."""
    networks: ClassVar[tuple[str, ...]] = ("network",)
    """What is trained, by name: each has a loss and an optimizer of its own."""
    outputs: ClassVar[Mapping[str, str]] = {}
    """What the losses read, by the symbols of the paper: name → shape and meaning. The meaning of an array of integers
    says labels, whole numbers or int, that of truth values bool; any other holds floats. An axis may be
    empty where the meaning says so ("K = 0")."""

    @abstractmethod
    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        """What one of ``networks`` is trained on at ``step`` (from 0): differentiable in the outputs that it trains;
        what must not move stands detached."""

    def losses(self, outputs: Outputs, step: int) -> Mapping[str, Float[Tensor, ""]]:
        """All of them by network."""
        return {name: self.loss(name, outputs, step) for name in self.networks}
