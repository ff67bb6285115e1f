"""What learners of diffusion have in common: data, a velocity network that is pretrained, samples, their distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.objective.energy import energy_distance
from selfteach.objective.flow import interpolated, matching_loss
from selfteach.recipes.diffusion import DiffusionRecipe
from selfteach.recipes.network import NetworkOptimization
from selfteach.training.diffusion.data import Source, source_named
from selfteach.training.diffusion.network import VelocityNetwork
from selfteach.training.diffusion.sampling import drawn, sample, time_grid
from selfteach.training.learner import Numbers, Sample, Stage, Trained, Update
from selfteach.training.network_learner import NetworkLearner, trained, write_weights
from selfteach.training.trainer import Settings

D = TypeVar("D", bound=DiffusionRecipe)
PRETRAIN, NETWORK = "pretrain", "network"
SHOWN = 300
"""Points of a cloud in the report."""
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
        """The network that is pretrained, as it begins."""
        recipe, seed = self.recipe, self.settings.seed
        sizes = (self.source.dims, self.prompts(), recipe.width, recipe.depth)
        return VelocityNetwork(*sizes, two_time=self.two_time, seed=seed)

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
        each = {steps: self.distances(steps) for steps in self.counts}
        found = {f"eval/energy/{steps}": sum(own) / len(own) for steps, own in each.items()}
        judged = self.recipe.sampling_steps
        of_labels = {f"eval/label/{label}": one for label, one in enumerate(each[judged])}
        return {"eval/headline": found[f"eval/energy/{judged}"], **found, **of_labels}

    def distances(self, steps: int) -> list[float]:
        """The energy distance of samples to the reference, of each label."""
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        found = []
        for label in range(self.source.classes):
            theirs = self.reference(label, generator)
            ours = self.generate(torch.full((self.recipe.eval_samples,), label), steps, generator)
            found.append(float(energy_distance(ours, theirs)))
        return found

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """Points by number of steps beside the data, in the plane."""
        if self.source.dims != 2:
            return []
        labels = torch.arange(SHOWN) % self.source.classes
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        each = -(-SHOWN // self.source.classes)
        clouds = {
            "data": torch.cat([self.reference(c, generator)[:each] for c in range(self.source.classes)])
        }
        for steps in self.counts:
            clouds[f"{steps} step{'s' * (steps > 1)}"] = self.generate(labels, steps, generator)
        return [Sample("points", {"points": {name: one.tolist() for name, one in clouds.items()}}, "samples")]

    def export(self, folder: Path) -> None:
        write_weights(self.shown().state_dict(), folder, "velocity")
