"""Differentiable architecture search, taught by a vote of the supernet's earlier states (arXiv 2302.05629)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from selfteach.checks import require
from selfteach.objective.curvature import largest_eigenvalue
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r54_sd_darts import SDDarts
from selfteach.training.learner import Sample, Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, update_of, write_weights
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings
from selfteach.training.vision.labelled import Labelled, labelled
from selfteach.training.vision.supernet import OPERATIONS, Architecture, Supernet, discretized, named

WEIGHTS, ARCHITECTURE = "weights", "architecture"


class Batches(NamedTuple):
    """A step's images: of the training split for the weights, of the validation split for the architecture (none while
    the discretized network is trained anew)."""

    train: Labelled
    valid: Labelled | None


class Snapshot(NamedTuple):
    """A state of the supernet: its weights by name, and each edge's weights of the operations."""

    weights: dict[str, Shaped[Tensor, "..."]]
    mixing: Float[Tensor, "e o"]


class DartsLearner(NetworkLearner[SDDarts]):
    """Stage ``search`` moves both; stage ``retrain``, if it has steps, begins with weights of its own, which the
    discretized network has for itself."""

    unit, headline = "images", "accuracy of the discretized network"

    def __init__(self, recipe: SDDarts, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.data = labelled(recipe.data, settings.seed)
        channels, height, width = self.data.train.x.shape[1:]
        require(
            min(height, width) >= 2 ** (recipe.cells - 1),
            f"cells {recipe.cells} halve an image {recipe.cells - 1} times, and data {recipe.data} has "
            f"{height} × {width}: take fewer cells",
        )
        self.stage = 0
        self.stages = [Stage("search", recipe.optimization.steps)]
        if recipe.retrain_steps:
            self.stages.append(Stage("retrain", recipe.retrain_steps))
        self.shape = (channels, recipe.channels, recipe.cells, recipe.nodes, self.data.classes)
        with seeded(settings.seed):
            self.architecture = Architecture(recipe.nodes)
            self.supernet = Supernet(*self.shape)
            self.anew = Supernet(*self.shape).state_dict()
        self.snapshots = Snapshots(self)

    def modules(self) -> Mapping[str, nn.Module]:
        return {WEIGHTS: self.supernet, ARCHITECTURE: self.architecture}

    def enter(self, stage: int) -> None:
        self.stage = stage
        if stage:
            self.supernet.load_state_dict(self.anew)

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        self.data = self.data.on(self.architecture.alpha.device)
        how = self.recipe.optimization
        moved = trained(wrapped[WEIGHTS], replace(how, steps=self.stages[self.stage].steps))
        if self.stage:
            return {WEIGHTS: moved}
        r = self.recipe
        adam = NetworkOptimization(
            optim="adam", lr=r.arch_lr, betas=r.arch_betas, weight_decay=r.arch_weight_decay
        )
        return {WEIGHTS: moved, ARCHITECTURE: trained(wrapped[ARCHITECTURE], adam)}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Snapshots]:
        return {} if self.stage else {"snapshots": self.snapshots}

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Batches:
        return Batches(self.drawn(self.data.train), None if self.stage else self.drawn(self.data.valid))

    def drawn(self, rows: Labelled) -> Labelled:
        """Images of a split, with replacement."""
        return rows[torch.randint(len(rows), (self.recipe.optimization.batch_size,)).to(rows.x.device)]

    def updates(self, batch: Batches) -> Iterator[Update]:
        yield update_of(self.recipe, WEIGHTS, lambda: self.outputs(batch.train), 0)
        if batch.valid is not None:
            valid = batch.valid
            yield update_of(self.recipe, ARCHITECTURE, lambda: self.outputs(valid), 0)

    def outputs(self, batch: Labelled) -> dict[str, Shaped[Tensor, "..."]]:
        return {"f": self.supernet(batch.x, self.mixing()), "y": batch.y, "g": self.snapshots.logits(batch.x)}

    def mixing(self) -> Float[Tensor, "e o"]:
        """Of the network that is trained."""
        return self.discretized() if self.stage else self.architecture()

    @torch.no_grad()
    def discretized(self) -> Float[Tensor, "e o"]:
        return discretized(self.architecture(), self.recipe.nodes)

    def spent(self, batch: Batches) -> int:
        return len(batch.train) + (0 if batch.valid is None else len(batch.valid))

    # --- what is seen ---------------------------------------------------------------------------------------------

    def evaluate(self, phase: str) -> Mapping[str, float]:
        one = self.discretized()
        found = {"eval/headline": self.accuracy(one)}
        if self.stage:
            return found
        supernet = self.accuracy(self.architecture().detach())
        found |= {"eval/supernet": supernet, "eval/gap": supernet - found["eval/headline"]}
        found["eval/skips"] = float(one[:, OPERATIONS.index("skip")].sum())
        if self.recipe.power_steps:
            found["eval/lambda_max"] = self.sharpness()
        return found

    @torch.no_grad()
    def accuracy(self, mixing: Float[Tensor, "e o"]) -> float:
        """Of the network with these weights of its operations, on the test split."""
        test = self.data.test
        return float((self.supernet(test.x, mixing).argmax(1) == test.y).double().mean())

    def sharpness(self) -> float:
        """λ_max of the training images' mean cross-entropy in the supernet's weights, the architecture as it is."""
        rows = self.data.train[: self.recipe.hessian_rows]
        with torch.enable_grad():
            loss = functional.cross_entropy(self.supernet(rows.x, self.architecture().detach()), rows.y)
            return largest_eigenvalue(
                loss,
                list(self.supernet.parameters()),
                self.recipe.power_steps,
                torch.Generator().manual_seed(0),
            )

    def samples(self, batch: Batches | None, phase: str) -> list[Sample]:
        """The discretized network in words, and each edge's weights of the operations."""
        weights = self.architecture().detach()
        table = [dict(zip(OPERATIONS, map(float, row), strict=True)) for row in weights]
        return [
            Sample(
                "episode", {"network": named(self.discretized(), self.recipe.nodes), "weights": table}, "cell"
            )
        ]

    def export(self, folder: Path) -> None:
        alpha = self.architecture.alpha
        write_weights({**self.supernet.state_dict(), "alpha": alpha}, folder, "supernet")


class Snapshots:
    """The teachers: the last K states of weights and architecture, one every ``spacing`` steps. They stand still."""

    def __init__(self, learner: DartsLearner) -> None:
        self.learner, self.steps = learner, 0
        self.ring: deque[Snapshot] = deque(maxlen=learner.recipe.teachers)

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None:
        self.steps += 1
        if self.steps % self.learner.recipe.spacing == 0:
            self.take()

    def take(self) -> None:
        """The present state becomes the latest teacher, and the oldest goes where there are K."""
        weights = {name: one.clone() for name, one in self.learner.supernet.state_dict().items()}
        self.ring.append(Snapshot(weights, self.learner.architecture().detach()))

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "k n o"]:
        learner = self.learner
        if learner.stage or not self.ring:
            return images.new_zeros(0, len(images), learner.data.classes)
        return torch.stack(
            [functional_call(learner.supernet, one.weights, (images, one.mixing)) for one in self.ring]
        )

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "ring": [one._asdict() for one in self.ring]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        device = self.learner.architecture.alpha.device
        self.steps = state["steps"]
        self.ring.clear()
        for one in state["ring"]:
            weights = {name: each.to(device) for name, each in one["weights"].items()}
            self.ring.append(Snapshot(weights, one["mixing"].to(device)))
