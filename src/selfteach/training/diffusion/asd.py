"""A few steps a frame that learn from one step more, and from a teacher of many (arXiv 2511.01419)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.objective.energy import energy_distance
from selfteach.objective.flow import clean, interpolated, matching_loss, noise_of
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r63_asd import ASD
from selfteach.task.walk2d import Walk
from selfteach.training.diffusion.data import Source, source_named
from selfteach.training.diffusion.frames import (
    FrameNetwork,
    OfWalk,
    before_each,
    budgets,
    noise_for,
    require_frames,
    roll_out,
)
from selfteach.training.diffusion.learner import (
    APART,
    EARLIEST,
    LATEST,
    NETWORK,
    SHOWN,
    DiffusionLearner,
    Matching,
    in_steps,
)
from selfteach.training.diffusion.network import VelocityMLP
from selfteach.training.learner import Numbers, Sample, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of, write_weights
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings

DISTILL = "distill"
STUDENT, FAKE, DISCRIMINATOR = "student", "fake", "discriminator"
WALK = "walk"
MANY = 32
"""Steps of the teacher's samples that the student's are set beside."""


class Branches(NamedTuple):
    """``few`` and ``more``: sequences of the student in ``steps`` steps a frame and in one more; ``start`` is what
    ``few`` was denoised from. ``noise`` and ``t`` noise what the discriminator sees of few and of more, and what the
    two scores are asked about."""

    few: Float[Tensor, "b d"]
    more: Float[Tensor, "b d"]
    start: list[Float[Tensor, "s b e"]]
    steps: int
    noise: Float[Tensor, "3 b d"]
    t: Float[Tensor, "3 b"]


class ASDLearner(DiffusionLearner[ASD]):
    """Stage ``pretrain``: flow matching of the teacher on whole sequences and of the student frame by frame, behind the
    data's own frames. Stage ``distill``: every so many steps the student moves, else the network of its scores, which
    begins as the teacher, and the discriminator, a head on that network's features."""

    headline = "energy distance of sequences to the data"

    def __init__(self, recipe: ASD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        dims, classes = self.source.dims, self.source.classes
        require(
            classes == 1,
            f"data {recipe.data} has {classes} labels, and sequences have none: give one label to all",
        )
        require_frames(recipe.data, self.source, recipe.frames)
        seed, width = settings.seed, recipe.width
        self.entries = dims // recipe.frames
        self.student = FrameNetwork(self.entries, recipe.frames, width, recipe.depth, seed + 1)
        self.fake = VelocityMLP(dims, classes, width, recipe.depth, seed=seed)
        with seeded(seed + 2):
            self.head = nn.Sequential(
                nn.Linear(width, width), nn.SiLU(), nn.Linear(width, recipe.schedule_steps - 1)
            )

    def make_source(self) -> Source:
        recipe = self.recipe
        return (
            OfWalk(Walk(recipe.frames))
            if recipe.data == WALK
            else source_named(recipe.data, self.settings.seed, [WALK])
        )

    def own_stages(self) -> list[Stage]:
        return [Stage(DISTILL, self.recipe.optimization.steps)]

    def modules(self) -> Mapping[str, nn.Module]:
        return {
            NETWORK: self.network,
            STUDENT: self.student,
            FAKE: self.fake,
            DISCRIMINATOR: self.head,
        }

    def enter(self, stage: int) -> None:
        super().enter(stage)
        if not self.pretraining:
            self.fake.load_state_dict(self.network.state_dict())

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe, how = self.recipe, self.recipe.optimization
        if self.pretraining:
            first = NetworkOptimization(
                lr=recipe.pretrain_lr, schedule="cosine", steps=max(1, recipe.pretrain_steps)
            )
            return {name: trained(wrapped[name], first) for name in (NETWORK, STUDENT)}
        moving = sum(self.leads(step) for step in range(how.steps))
        made = {STUDENT: (how.lr, moving)}
        for name, lr in ((FAKE, recipe.fake_lr), (DISCRIMINATOR, recipe.discriminator_lr)):
            made[name] = (lr, how.steps - moving)
        return {
            name: trained(wrapped[name], replace(how, lr=lr), max(1, steps))
            for name, (lr, steps) in made.items()
        }

    # --- a step ---------------------------------------------------------------------------------------------------

    def leads(self, step: int) -> bool:
        """Whether the student moves at this step."""
        return (step + 1) % self.recipe.student_every == 0

    def collect(self, step: int) -> Any:
        self.step = step
        return super().collect(step) if self.pretraining else self.branches()

    @torch.no_grad()
    def branches(self) -> Branches:
        rows, recipe = self.recipe.optimization.batch_size, self.recipe
        steps = int(torch.randint(1, recipe.schedule_steps, ()))
        start, other = (self.noise(budgets(recipe.frames, n), rows) for n in (steps, steps + 1))
        noise = torch.randn(3, rows, self.source.dims).to(self.device)
        t = EARLIEST + (LATEST - EARLIEST) * torch.rand(3, rows)
        return Branches(self.rolled(start), self.rolled(other), start, steps, noise, t.to(self.device))

    def noise(
        self, each: list[int], rows: int, generator: torch.Generator | None = None
    ) -> list[Float[Tensor, "s b e"]]:
        return [one.to(self.device) for one in noise_for(each, rows, self.entries, generator)]

    def rolled(self, noise: list[Float[Tensor, "s b e"]]) -> Float[Tensor, "b d"]:
        return roll_out(self.student, noise, self.recipe.schedule_steps).flatten(1)

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.pretraining:
            yield Update((NETWORK,), lambda: self.match(batch))
            yield Update((STUDENT,), lambda: self.match_frames(batch))
        elif self.leads(self.step):
            yield update_of(self.recipe, STUDENT, lambda: self.followed(batch), self.step)
        else:
            yield update_of(self.recipe, FAKE, lambda: self.seen(batch), self.step)
            yield update_of(self.recipe, DISCRIMINATOR, lambda: self.told_apart(batch), self.step)

    def match_frames(self, batch: Matching) -> Numbers:
        """Flow matching of the student, every frame behind the data's own."""
        frames = self.recipe.frames
        x0, noise = (one.reshape(-1, frames, self.entries) for one in (batch.x0, batch.noise))
        before = before_each(x0).flatten(0, 1)
        x0, noise, t = x0.flatten(0, 1), noise.flatten(0, 1), batch.t.repeat_interleave(frames)
        place = torch.arange(frames, device=self.device).repeat(len(batch.t))
        loss = matching_loss(self.student(interpolated(x0, noise, t), t, place, before), x0, noise)
        loss.backward()
        return {"loss/student": loss.item()}

    def followed(self, batch: Branches) -> dict[str, Shaped[Tensor, "..."]]:
        """What the student's loss reads."""
        x, t = self.rolled(batch.start), batch.t[2]
        x_t = interpolated(x.detach(), batch.noise[2], t)
        with torch.no_grad():
            d_more = self.score(self.noised(batch, 1, batch.more), batch.t[1], batch.steps)
            real, fake = (clean(x_t, self.velocity(one, x_t, t), t) for one in (self.network, self.fake))
        d_n = self.score(self.noised(batch, 0, x), batch.t[0], batch.steps)
        return {"x": x, "x0_real": real, "x0_fake": fake, "t": t, "d_n": d_n, "d_more": d_more}

    def seen(self, batch: Branches) -> dict[str, Shaped[Tensor, "..."]]:
        """What the loss of the student's scores reads."""
        x_t = self.noised(batch, 2, batch.few)
        velocity = self.velocity(self.fake, x_t, batch.t[2])
        seen = noise_of(x_t, velocity, batch.t[2])
        return {"eps_fake": seen, "eps": batch.noise[2], "t": batch.t[2]}

    def told_apart(self, batch: Branches) -> dict[str, Shaped[Tensor, "..."]]:
        """What the discriminator's loss reads."""
        found: dict[str, Tensor] = {}
        for place, (name, x) in enumerate({"n": batch.few, "more": batch.more}.items()):
            x_t = self.noised(batch, place, x).requires_grad_()
            score = self.score(x_t, batch.t[place], batch.steps)
            (slope,) = torch.autograd.grad(score.sum(), x_t, create_graph=True)
            found |= {f"d_{name}": score, f"slope_{name}": slope}
        return found

    def noised(self, batch: Branches, place: int, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return interpolated(x, batch.noise[place], batch.t[place])

    def score(self, x: Float[Tensor, "b d"], t: Float[Tensor, "b"], steps: int) -> Float[Tensor, "b"]:
        """D^n(x_t): the n-th number that the head reads off the features of the student's scores."""
        found: Tensor = self.head(self.fake.features(x, t, self.no_label(x)))
        return found[:, steps - 1]

    def velocity(
        self, network: nn.Module, x: Float[Tensor, "b d"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b d"]:
        found: Tensor = network(x, t, self.no_label(x))
        return found

    def no_label(self, x: Float[Tensor, "b d"]) -> Int[Tensor, "b"]:
        return torch.zeros(len(x), dtype=torch.long, device=x.device)

    # --- what is seen ---------------------------------------------------------------------------------------------

    def generate(
        self, labels: Int[Tensor, "n"], steps: int, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """Sequences of the student, every frame in so many steps."""
        return self.walked(len(labels), generator, budgets(self.recipe.frames, steps))

    @torch.no_grad()
    def walked(self, n: int, generator: torch.Generator, each: list[int]) -> Float[Tensor, "n d"]:
        return self.rolled(self.noise(each, n, generator)).cpu()

    def taught(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """The teacher's sequences in ``MANY`` steps."""
        return super().generate(torch.zeros(n, dtype=torch.long), MANY, generator)

    def evaluate(self, phase: str) -> Mapping[str, float]:
        """``eval/energy/K``: K steps for every frame; ``eval/energy_first/K``: the first frame has the whole schedule;
        ``eval/energy_teacher``: the teacher's."""
        found = {**(super().evaluate(phase) or {})}
        whole, frames = self.recipe.schedule_steps, self.recipe.frames
        for steps in self.counts:
            each = budgets(frames, steps, whole)
            found[f"eval/energy_first/{steps}"] = self.apart(partial(self.walked, each=each))
        return {**found, "eval/energy_teacher": self.apart(self.taught)}

    def apart(self, make: Callable[[int, torch.Generator], Float[Tensor, "n d"]]) -> float:
        """The energy distance of so many sequences to the data."""
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        theirs = self.reference(0, generator)
        return float(energy_distance(make(self.recipe.eval_samples, generator), theirs))

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """The last frame by number of steps beside the data's, in the plane."""
        if self.source.is_images or self.entries != 2:
            return []
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        clouds = {"data": self.reference(0, generator)[:SHOWN]}
        for steps in self.counts:
            each = budgets(self.recipe.frames, steps)
            clouds[in_steps(steps)] = self.walked(SHOWN, generator, each)
        points = {name: one[:, -2:].tolist() for name, one in clouds.items()}
        return [Sample("points", {"points": points}, "last frame")]

    def export(self, folder: Path) -> None:
        write_weights(self.student.state_dict(), folder, "student")
