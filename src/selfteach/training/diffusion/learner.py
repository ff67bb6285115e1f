"""What learners of diffusion have in common: data, a velocity network that is pretrained, samples, their distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from selfteach.objective.energy import energy_distance
from selfteach.objective.flow import interpolated, matching_loss
from selfteach.recipes.diffusion import DiffusionRecipe, ImageDiffusionRecipe
from selfteach.recipes.network import NetworkOptimization
from selfteach.training.diffusion.data import Source, source_named
from selfteach.training.diffusion.network import VelocityMLP, VelocityNetwork
from selfteach.training.diffusion.sampling import drawn, sample, time_grid
from selfteach.training.diffusion.unet import VelocityUNet
from selfteach.training.learner import Numbers, Sample, Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, write_weights
from selfteach.training.pictures import SHADE, side_by_side
from selfteach.training.trainer import Settings

D = TypeVar("D", bound=DiffusionRecipe)
PRETRAIN, NETWORK = "pretrain", "network"
SHOWN = 300
"""Points of a cloud in the report."""
PICTURED = 8
"""Images of a label in the report."""
EARLIEST, LATEST = 0.02, 0.98
"""Between these times samples are noised where scores are asked: at neither end do they say anything."""
APART = 1_000_003
"""What is held out, and the noise that evaluations begin with, are drawn by the run's seed plus this."""


class Matching(NamedTuple):
    """A batch of flow matching."""

    x0: Float[Tensor, "n d"]
    noise: Float[Tensor, "n d"]
    t: Float[Tensor, "n"]
    labels: Int[Tensor, "n"]


class DiffusionLearner(NetworkLearner[D], Generic[D]):
    """Stage ``pretrain`` of flow matching. A method's ``own_stages`` come after it; its ``collect``, ``updates``,
    ``optimizers`` and ``roles`` ask ``pretraining`` and leave that stage to these."""

    unit, headline, better = "samples", "energy distance to the data, mean over labels", "lower"
    two_time = False
    """Whether the network is told where a step ends."""

    def __init__(self, recipe: D, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.source = self.make_source()
        self.network = self.make_network()
        first = [Stage(PRETRAIN, recipe.pretrain_steps)] if recipe.pretrain_steps else []
        self.stages = [*first, *self.own_stages()]
        self.stage = self.stages[0].name

    def make_source(self) -> Source:
        """Where examples come from. UserError where the recipe's data is none."""
        return source_named(self.recipe.data, self.settings.seed)

    def make_network(self) -> VelocityNetwork:
        """The recipe's architecture, for the source's rows. UserError where they are no images and it asks for some."""
        recipe, sizes = self.recipe, (self.prompts(), self.recipe.width, self.recipe.depth)
        if isinstance(recipe, ImageDiffusionRecipe) and recipe.architecture == "unet":
            return VelocityUNet(self.source.shape, *sizes, two_time=self.two_time, seed=self.settings.seed)
        return VelocityMLP(self.source.dims, *sizes, two_time=self.two_time, seed=self.settings.seed)

    def prompts(self) -> int:
        """How many labels the network knows, beside none."""
        return self.source.classes

    def own_stages(self) -> list[Stage]:
        """The method's stages after ``pretrain``."""
        return []

    @property
    def pretraining(self) -> bool:
        return self.stage == PRETRAIN

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.network}

    def enter(self, stage: int) -> None:
        self.stage = self.stages[stage].name

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe = self.recipe
        how = NetworkOptimization(
            lr=recipe.pretrain_lr, schedule="cosine", steps=max(1, recipe.pretrain_steps)
        )
        return {NETWORK: trained(wrapped[NETWORK], how)}

    # --- flow matching --------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        return self.matching(self.recipe.pretrain_batch_size)

    def matching(self, n: int) -> Matching:
        """Examples, noise and even times; a share ``label_dropout`` of the labels is hidden."""
        x0, labels = self.source.draw(n)
        hidden = torch.rand(n) < self.recipe.label_dropout
        labels = torch.where(hidden, self.network.null, labels)
        made = (x0, torch.randn_like(x0), torch.rand(n), labels)
        return Matching(*(one.to(self.device) for one in made))

    def updates(self, batch: Any) -> Iterator[Update]:
        yield Update((NETWORK,), lambda: self.match(batch))

    def match(self, batch: Matching, network: VelocityNetwork | None = None) -> Numbers:
        x = interpolated(batch.x0, batch.noise, batch.t)
        loss = matching_loss((network or self.network)(x, batch.t, batch.labels), batch.x0, batch.noise)
        loss.backward()
        return {"loss": loss.item()}

    # --- what is seen ---------------------------------------------------------------------------------------------

    def shown(self) -> VelocityNetwork:
        """The network whose samples are judged: the trained one, or a copy that follows it."""
        return self.network

    def generate(
        self, labels: Int[Tensor, "n"], steps: int, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """Samples of the shown network in so many steps, on the CPU."""
        noise = drawn((len(labels), self.source.dims), generator, self.device)
        return sample(self.shown(), noise, labels.to(self.device), time_grid(steps)).cpu()

    def reference(self, label: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        """What samples of a label should look like."""
        return self.source.held_out(label, self.recipe.eval_samples, generator)

    @property
    def counts(self) -> list[int]:
        """Every number of steps that is sampled with."""
        return sorted({*self.recipe.step_counts, self.recipe.sampling_steps})

    def evaluate(self, phase: str) -> Mapping[str, float] | None:
        """Means over labels by number of steps; by label in the number that the headline judges."""
        each = {steps: self.judged(steps) for steps in self.counts}
        found = {
            f"eval/{name}/{steps}": mean(own) for steps, one in each.items() for name, own in one.items()
        }
        judged = self.recipe.sampling_steps
        of_labels = {f"eval/label/{label}": one for label, one in enumerate(each[judged]["energy"])}
        return {"eval/headline": found[f"eval/energy/{judged}"], **found, **of_labels}

    def judged(self, steps: int) -> dict[str, list[float]]:
        """Of samples in so many steps, label by label: the energy distance to the reference, and of images the share
        that is recognized."""
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        found: dict[str, list[float]] = {"energy": [], "recognized": []}
        for label in range(self.source.classes):
            theirs = self.reference(label, generator)
            ours = self.generate(torch.full((self.recipe.eval_samples,), label), steps, generator)
            found["energy"].append(float(energy_distance(ours, theirs)))
            if (share := self.source.recognized(ours, label)) is not None:
                found["recognized"].append(share)
        return {name: own for name, own in found.items() if own}

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """By number of steps beside the data: points of the plane, or images."""
        if self.source.is_images:
            return self.pictures()
        if self.source.dims != 2:
            return []
        labels = torch.arange(SHOWN) % self.source.classes
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        each = -(-SHOWN // self.source.classes)
        clouds = {
            "data": torch.cat([self.reference(c, generator)[:each] for c in range(self.source.classes)])
        }
        for steps in self.counts:
            clouds[in_steps(steps)] = self.generate(labels, steps, generator)
        return [Sample("points", {"points": {name: one.tolist() for name, one in clouds.items()}}, "samples")]

    def pictures(self) -> list[Sample]:
        """Rows of images, a row a label; where a label has fewer than a row holds, the rest of it is empty."""
        classes, a_row = self.source.classes, PICTURED
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        held = [self.pixels(self.reference(c, generator)) for c in range(classes)]
        rows = {"held out": torch.cat([a_row_of(one) for one in held])}
        for steps in self.counts:
            labels = torch.arange(classes).repeat_interleave(a_row)
            rows[in_steps(steps)] = self.pixels(self.generate(labels, steps, generator))
        return [
            Sample("image", {"pixels": self.laid_out(one), "caption": f"{name}, a row a label"}, name)
            for name, one in rows.items()
        ]

    def pixels(self, images: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """As pictures have them, from 0 to 1, whatever numbers the data are in."""
        black, white = self.source.span
        return (images - black) / (white - black)

    def laid_out(self, images: Float[Tensor, "n d"]) -> Float[Tensor, "c h w"]:
        return side_by_side(images.unflatten(1, self.source.shape), columns=PICTURED)

    def export(self, folder: Path) -> None:
        write_weights(self.shown().state_dict(), folder, "velocity")


def a_row_of(images: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
    """The first ``PICTURED``, and empty ones for those that are not there."""
    few = images[:PICTURED]
    return functional.pad(few, (0, 0, 0, PICTURED - len(few)), value=SHADE)


def in_steps(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"
