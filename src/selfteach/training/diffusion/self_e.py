"""A flow that is trained from scratch and judges its own jumps (arXiv 2512.22374)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.objective.flow import clean, guided, interpolated
from selfteach.objective.transition import ode
from selfteach.recipes.r65_self_e import SelfE
from selfteach.training.diffusion.copies import Average
from selfteach.training.diffusion.learner import NETWORK, DiffusionLearner
from selfteach.training.diffusion.network import VelocityNetwork
from selfteach.training.diffusion.sampling import drawn, jumps, time_grid
from selfteach.training.learner import Role, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of
from selfteach.training.trainer import Settings

TRAIN = "train"


class Jump(NamedTuple):
    """Examples x₀ that are noised to ``t`` and judged at ``s``; ``noise`` takes them there, ``again`` their predictions
    to s. ``step``: which batch it is."""

    x0: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    t: Float[Tensor, "n"]
    s: Float[Tensor, "n"]
    noise: Float[Tensor, "n d"]
    again: Float[Tensor, "n d"]
    step: int


class SelfELearner(DiffusionLearner[SelfE]):
    """Stage ``train``. Prompts of the network: the labels, each of them called fake, none called fake, none."""

    two_time = True

    def __init__(self, recipe: SelfE, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.average: Average[VelocityNetwork] | None = None

    def own_stages(self) -> list[Stage]:
        return [Stage(TRAIN, self.recipe.optimization.steps)]

    def prompts(self) -> int:
        return 2 * self.source.classes + 1

    def fake(self, labels: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """The prompt that calls an image of the label fake."""
        classes = self.source.classes
        return torch.where(labels == self.network.null, 2 * classes, labels + classes)

    def enter(self, stage: int) -> None:
        super().enter(stage)
        self.average = None

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        if self.pretraining:
            return super().optimizers(wrapped)
        return {NETWORK: trained(wrapped[NETWORK], self.recipe.optimization)}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        if self.pretraining:
            return {}
        self.average = Average(self.network, self.recipe.ema_decay)
        return {"average": self.average}

    def shown(self) -> VelocityNetwork:
        return self.network if self.average is None else self.average.module

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        if self.pretraining:
            return super().collect(step)
        recipe, how = self.recipe, self.recipe.optimization
        batch = self.matching(how.batch_size)
        u = torch.sigmoid(torch.randn(how.batch_size))
        warped = math.exp(recipe.time_shift)
        t = warped / (warped + 1 / u - 1)
        lower = t * (1 - recipe.tau(step) * torch.rand(how.batch_size))
        s = torch.where(torch.rand(how.batch_size) < recipe.same_time, t, lower)
        again = drawn(batch.x0.shape, None, self.device)
        return Jump(batch.x0, batch.labels, t.to(self.device), s.to(self.device), batch.noise, again, step)

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.pretraining:
            yield from super().updates(batch)
        else:
            yield update_of(self.recipe, NETWORK, lambda: self.outputs(batch), batch.step)

    def outputs(self, batch: Jump) -> Mapping[str, Float[Tensor, "..."]]:
        """The prediction, and what it is judged to be where it lands."""
        x = interpolated(batch.x0, batch.noise, batch.t)
        x_hat = clean(x, self.network(x, batch.t, batch.labels, batch.s), batch.t)
        found = {"x_hat": x_hat, "x0": batch.x0, "t": batch.t, "s": batch.s}
        judged = {name: torch.zeros_like(x_hat) for name in ("G_c", "G_null", "G_fake")}
        rows = (batch.s < batch.t).nonzero()[:, 0]
        landed = interpolated(x_hat.detach(), batch.again, batch.s)[rows]
        s, labels = batch.s[rows], batch.labels[rows]
        none = torch.full_like(labels, self.network.null)
        with torch.no_grad():
            without = self.judge(self.network, landed, s, none)
            told = self.judge(self.shown(), landed, s, labels)
            # without a prompt there is nothing to tell: the average's lag is no score
            told = torch.where((labels == none)[:, None], without, told)
        judged["G_null"][rows], judged["G_c"][rows] = without, told
        if self.recipe.knows_fakes(batch.step):
            made = self.judge(self.network, landed, s, self.fake(labels))
            judged["G_fake"] = judged["G_fake"].index_put((rows,), made)
        return {**found, **judged}

    def judge(
        self,
        network: VelocityNetwork,
        x: Float[Tensor, "n d"],
        s: Float[Tensor, "n"],
        labels: Int[Tensor, "n"],
    ) -> Float[Tensor, "n d"]:
        """G(x, s, s, prompt)."""
        return clean(x, network(x, s, labels), s)

    def spent(self, batch: Any) -> int:
        return len(batch.t)

    # --- what is seen ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self, labels: Int[Tensor, "n"], steps: int, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        labels = labels.to(self.device)
        x = drawn((len(labels), self.source.dims), generator, self.device)
        for t, s in jumps(time_grid(steps).to(self.device), len(labels)):
            x0 = self.predicted(x, t, s if self.recipe.landing == "next" else t, labels)
            x = ode(x, (x - x0) / t[:, None], t, s).mean
        return x.cpu()

    def predicted(
        self, x: Float[Tensor, "n d"], t: Float[Tensor, "n"], s: Float[Tensor, "n"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, "n d"]:
        """The clean prediction with guidance, as long as it is without."""
        network, scale = self.shown(), self.recipe.guidance
        told = clean(x, network(x, t, labels, s), t)
        if scale == 1:
            return told
        without = clean(x, network(x, t, torch.full_like(labels, network.null), s), t)
        found = guided(told, without, scale)
        kept: Tensor = found * told.norm(dim=1, keepdim=True) / found.norm(dim=1, keepdim=True)
        return kept
