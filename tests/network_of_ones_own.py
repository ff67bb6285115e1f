"""A method without tokens, from outside the package: a line through points, pulled to an average of itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from selfteach.recipes.network_kit import (
    NetworkOptimization,
    NetworkRecipe,
    NonNegativeFloat,
    Outputs,
    UnitInterval,
    settings,
)
from selfteach.studies import Claim, Study
from selfteach.studies.verdict import Exceeds
from selfteach.training.learner import Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, update_of
from selfteach.training.trainer import Settings


@settings
class Line(NetworkRecipe):
    """|f − y|² + β |f − t|², with t what an average of the line says."""

    title = "A line"
    formula = "|f − y|² + β |f − t|²"
    learner = f"{__file__}:LineLearner"
    outputs = {"f": "[n, 1] the line", "y": "[n, 1] the truth", "t": "[n, 1] what its average says"}
    presets = {"paper": {}, "alone": {"beta": 0.0}}

    beta: NonNegativeFloat = 0.5
    """Weight of the average."""
    rate: UnitInterval = 0.1
    """Share of the line that the average takes on after a step."""
    optimization: NetworkOptimization = NetworkOptimization(optim="sgd", lr=0.05, steps=12, batch_size=16)

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        f, y, t = outputs["f"], outputs["y"], outputs["t"].detach()
        return (f - y).square().mean() + self.beta * (f - t).square().mean()


class Average:
    """A role: the line, smoothed over the steps."""

    def __init__(self, line: nn.Linear, rate: float) -> None:
        self.line, self.rate = line, rate
        self.values = [one.detach().clone() for one in line.parameters()]

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None:
        self.values = [
            mean.lerp(one.detach(), self.rate)
            for mean, one in zip(self.values, self.line.parameters(), strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, *self.values)

    def state(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.values = list(state["values"])


class LineLearner(NetworkLearner[Line]):
    unit, headline, better = "points", "distance from the slope", "lower"

    def __init__(self, recipe: Line, settings: Settings) -> None:
        super().__init__(recipe, settings)
        torch.manual_seed(settings.seed)
        self.line = nn.Linear(1, 1)
        self.stages = [Stage("line", recipe.optimization.steps)]

    def modules(self) -> Mapping[str, nn.Module]:
        return {"line": self.line}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        return {"network": trained(self.line, self.recipe.optimization)}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Average]:
        self.average = Average(self.line, self.recipe.rate)
        return {"average": self.average}

    def collect(self, step: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(self.recipe.optimization.batch_size, 1)
        return x, 3 * x + 0.1 * torch.randn_like(x)

    def updates(self, batch: tuple[Tensor, Tensor]) -> Iterator[Update]:
        x, y = batch
        yield update_of(self.recipe, "network", lambda: {"f": self.line(x), "y": y, "t": self.average(x)}, 0)

    def evaluate(self, phase: Literal["before", "train", "after", "hook"]) -> Mapping[str, float]:
        return {"eval/headline": abs(self.line.weight.item() - 3)}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_file(self.line.state_dict(), folder / "line.safetensors")


STUDY = Study(
    method="line",
    claims=(
        Claim(
            says="The average holds the line back",
            variants={"held": "network_of_ones_own.py:Line", "alone": "network_of_ones_own.py:Line:alone"},
            higher="held",
            lower="alone",
            rule=Exceeds(0.0),
            better="lower",
        ),
    ),
)
