"""A teacher of whole sequences, distilled into a student that makes them block by block (arXiv 2512.23576)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.objective.energy import energy_distance
from selfteach.objective.flow import clean, interpolated
from selfteach.objective.transition import ode
from selfteach.recipes.r21_livetalk import LiveTalk
from selfteach.task.walk2d import speeds
from selfteach.training.diffusion.copies import LateAverage
from selfteach.training.diffusion.data import Labels, Source, source_named
from selfteach.training.diffusion.frames import (
    FrameNetwork,
    Frames,
    OfWalks,
    before_each,
    budgets,
    in_turn,
    noise_for,
    require_frames,
    times_of,
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
from selfteach.training.diffusion.sampling import drawn, jumps, time_grid
from selfteach.training.learner import Role, Sample, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of, write_weights
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings

ODE, DISTILL = "ode", "distill"
STUDENT, FAKE = "student", "fake"
WALK_SPEEDS = "walk-speeds"
BETWEEN = 12
"""Steps of the teacher from one of the student's times to the next."""
Conditions = Int[Tensor, "n"]
"""Text and audio of each row, as one number: text · (labels + 1) + audio, the last label of either being none."""

Maker = Callable[[Int[Tensor, "n"], torch.Generator], Float[Tensor, "m d"]]
"""Sequences of labels, by a random generator, on the CPU."""


class Trajectories(NamedTuple):
    """The teacher's ``states`` at the student's times, and at their ends."""

    states: Float[Tensor, "k p d"]
    conditions: Conditions


class States(NamedTuple):
    """Which of the stored trajectories, and at which of the student's times each of their blocks is."""

    rows: Int[Tensor, "n"]
    places: Int[Tensor, "n f"]


class Draws(NamedTuple):
    """What a sequence of the student is made of: ``start`` along the first times of the schedule, as many as it has
    steps, or the teacher's ``states``. ``noise`` and ``t`` noise what comes of it."""

    conditions: Conditions
    start: list[Float[Tensor, "s n e"]]
    states: States | None
    noise: Float[Tensor, "n d"]
    t: Float[Tensor, "n"]


class LiveTalkLearner(DiffusionLearner[LiveTalk]):
    """Stages: ``pretrain`` of the teacher by flow matching on whole sequences; ``ode``, the student's regression to the
    ends of the teacher's trajectories; ``distill``, distribution matching, with a network of the student's samples that
    begins as the teacher. A block is what ``frames`` calls a frame: a small network reads the clean block before, in
    the place of a cache of keys and values that is refreshed with it."""

    headline = "energy distance of sequences to the data, mean over labels"

    def __init__(self, recipe: LiveTalk, settings: Settings) -> None:
        super().__init__(recipe, settings)
        dims, classes = self.source.dims, self.source.classes
        require_frames(recipe.data, self.source, recipe.frames)
        require(
            classes > 1 or recipe.condition_noise == 0,
            f"data {recipe.data} has one label, and condition_noise is of another one: leave it at 0",
        )
        self.blocks = recipe.frames // recipe.block_frames
        self.entries = dims // self.blocks
        sizes = (self.entries, self.blocks, recipe.width, recipe.depth, settings.seed + 1)
        self.student = FrameNetwork(*sizes, conditions=self.kinds)
        self.fake = self.make_network()
        self.average: LateAverage[FrameNetwork] | None = None
        self.stored: Trajectories | None = None

    def make_source(self) -> Source:
        recipe = self.recipe
        if recipe.data == WALK_SPEEDS:
            return OfWalks(speeds(recipe.frames))
        return source_named(recipe.data, self.settings.seed, [WALK_SPEEDS])

    @property
    def kinds(self) -> tuple[int, int]:
        """How many texts and audios there are, none included."""
        return self.source.classes + 1, self.source.classes + 1

    def prompts(self) -> int:
        texts, audios = self.kinds
        return texts * audios - 1

    def make_network(self) -> VelocityMLP:
        recipe, seed = self.recipe, self.settings.seed
        sizes = (self.source.dims, self.prompts(), recipe.width, recipe.depth)
        return VelocityMLP(*sizes, seed=seed, parts=self.kinds)

    def own_stages(self) -> list[Stage]:
        recipe = self.recipe
        first = [Stage(ODE, recipe.ode_steps)] if recipe.ode_steps else []
        return [*first, Stage(DISTILL, recipe.optimization.steps)]

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.network, STUDENT: self.student, FAKE: self.fake}

    def enter(self, stage: int) -> None:
        super().enter(stage)
        self.average = None
        if self.stage == DISTILL:
            self.fake.load_state_dict(self.network.state_dict())

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe, how = self.recipe, self.recipe.optimization
        if self.pretraining:
            return super().optimizers(wrapped)
        if self.stage == ODE:
            return {ODE: trained(wrapped[STUDENT], replace(how, lr=recipe.ode_lr, steps=recipe.ode_steps))}
        moving = how.steps // recipe.student_every
        return {
            STUDENT: trained(wrapped[STUDENT], how, moving),
            FAKE: trained(wrapped[FAKE], replace(how, lr=recipe.fake_lr)),
        }

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        if self.stage != DISTILL:
            return {}
        recipe = self.recipe
        self.average = LateAverage(self.student, recipe.ema_decay, recipe.ema_from, STUDENT)
        return {"average": self.average}

    # --- conditions -----------------------------------------------------------------------------------------------

    def told(self, texts: Labels, audios: Labels) -> Conditions:
        return texts * self.kinds[1] + audios

    def without_audio(self, conditions: Conditions) -> Conditions:
        silent = self.kinds[1] - 1
        return conditions - conditions % self.kinds[1] + silent

    def noisy(self, labels: Labels) -> Conditions:
        """Text and audio of labels, of a share ``condition_noise`` the audio of another label."""
        classes = self.source.classes
        wrong = torch.rand(len(labels)) < self.recipe.condition_noise
        other = (labels + torch.randint(1, max(2, classes), (len(labels),))) % classes
        return self.told(labels, torch.where(wrong, other, labels))

    def matching(self, n: int) -> Matching:
        """Of a share ``label_dropout`` of the examples neither condition is told, and of as many no audio."""
        x0, labels = self.source.draw(n)
        shown, u = self.told(labels, labels), torch.rand(n)
        hidden = self.recipe.label_dropout
        shown = torch.where(u < 2 * hidden, self.without_audio(shown), shown)
        shown = torch.where(u < hidden, self.network.null, shown)
        made = (x0, torch.randn_like(x0), torch.rand(n), shown)
        return Matching(*(one.to(self.device) for one in made))

    # --- the teacher ----------------------------------------------------------------------------------------------

    def views(
        self, x: Float[Tensor, "n d"], t: Float[Tensor, "n"], conditions: Conditions, *, audio: bool
    ) -> dict[str, Float[Tensor, "n d"]]:
        """The teacher's velocities with conditions, without, and, where it has guidance of its own, without the audio;
        named as the clean predictions that they mean."""
        shown = {"f_c": conditions, "f_u": torch.full_like(conditions, self.network.null)}
        if audio:
            shown["f_text"] = self.without_audio(conditions)
        return {name: self.network(x, t, one) for name, one in shown.items()}

    @torch.no_grad()
    def trajectories(self, noise: Float[Tensor, "n d"], conditions: Conditions) -> Float[Tensor, "k n d"]:
        """Euler's steps of the guided teacher; its states at the student's times, and at the end."""
        recipe = self.recipe
        scales = recipe.ode_guidance or recipe.guidance
        x, found = noise, [noise]
        grid = time_grid(recipe.schedule_steps * BETWEEN, recipe.timestep_shift).to(self.device)
        for step, (t, s) in enumerate(jumps(grid, len(x)), start=1):
            views = self.views(x, t, conditions, audio=len(scales) > 1)
            x = ode(x, recipe.guided(views, scales), t, s).mean
            found += [x] * (step % BETWEEN == 0)
        return torch.stack(found)

    def pairs(self) -> Trajectories:
        """Those that are stored: a function of the teacher, who is done, and the run's seed."""
        if self.stored is None:
            n = self.recipe.ode_pairs
            with seeded(self.settings.seed + 2):
                conditions = self.noisy(self.source.draw(n)[1]).to(self.device)
                noise = drawn((n, self.source.dims), None, self.device)
            self.stored = Trajectories(self.trajectories(noise, conditions), conditions)
        return self.stored

    # --- a step ---------------------------------------------------------------------------------------------------

    def leads(self, step: int) -> bool:
        """Whether the student moves at this step."""
        return (step + 1) % self.recipe.student_every == 0

    def collect(self, step: int) -> Any:
        self.step = step
        if self.pretraining:
            return super().collect(step)
        if self.stage == ODE:
            n, times = self.recipe.optimization.batch_size, self.recipe.schedule_steps
            return self.states(torch.randint(times, (n, self.blocks)))
        return [self.draws() for _ in range(1 + self.leads(step))]

    def states(self, places: Int[Tensor, "n f"]) -> States:
        rows = torch.randint(self.recipe.ode_pairs, (len(places),))
        return States(rows.to(self.device), places.to(self.device))

    def draws(self) -> Draws:
        recipe, n = self.recipe, self.recipe.optimization.batch_size
        first = recipe.schedule_steps if recipe.rollouts == "on-policy-last" else 1
        steps = int(torch.randint(first, recipe.schedule_steps + 1, ()))
        if recipe.rollouts != "teacher-forced":
            start, states = self.noise(budgets(self.blocks, steps), n), None
            conditions = self.noisy(self.source.draw(n)[1]).to(self.device)
        else:
            start, states = [], self.states(torch.full((n, self.blocks), steps - 1))
            conditions = self.pairs().conditions[states.rows]
        noise = drawn((n, self.source.dims), None, self.device)
        return Draws(conditions, start, states, noise, self.times(n))

    def times(self, n: int) -> Float[Tensor, "n"]:
        """Times that samples are noised to."""
        u, shift = torch.rand(n), self.recipe.timestep_shift
        return (shift * u / (1 + (shift - 1) * u)).clamp(EARLIEST, LATEST).to(self.device)

    def noise(
        self, each: list[int], rows: int, generator: torch.Generator | None = None
    ) -> list[Float[Tensor, "s n e"]]:
        return [one.to(self.device) for one in noise_for(each, rows, self.entries, generator)]

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.pretraining:
            yield from super().updates(batch)
        elif self.stage == ODE:
            yield update_of(self.recipe, ODE, lambda: self.regressed(batch), self.step)
        else:
            if self.leads(self.step):
                yield update_of(self.recipe, STUDENT, lambda: self.followed(batch[1]), self.step)
            yield update_of(self.recipe, FAKE, lambda: self.denoised(batch[0]), self.step)

    def regressed(self, batch: States) -> dict[str, Shaped[Tensor, "..."]]:
        """What the loss of regression reads."""
        return {"G": self.predicted(batch), "x0": self.pairs().states[-1][batch.rows]}

    def predicted(self, batch: States) -> Float[Tensor, "n d"]:
        """The student's clean predictions of the teacher's blocks, each behind the clean one before it."""
        states, conditions = self.pairs()
        whole = states[:, batch.rows].unflatten(2, (self.blocks, self.entries))
        n, blocks = batch.places.shape
        x = whole.gather(0, batch.places[None, :, :, None].expand(1, -1, -1, self.entries))[0]
        t = self.grid(self.recipe.schedule_steps).to(self.device)[batch.places].flatten()
        place = torch.arange(blocks, device=self.device).repeat(n)
        shown = conditions[batch.rows].repeat_interleave(blocks)
        x, before = x.flatten(0, 1), before_each(whole[-1]).flatten(0, 1)
        return clean(x, self.student(x, t, place, before, shown), t).reshape(n, -1)

    def followed(self, batch: Draws) -> dict[str, Shaped[Tensor, "..."]]:
        """What the student's loss reads."""
        x = self.made(batch)
        with torch.no_grad():
            x_t = interpolated(x, batch.noise, batch.t)
            audio = len(self.recipe.guidance) > 1
            views = self.views(x_t, batch.t, batch.conditions, audio=audio)
            views["f_fake"] = self.fake(x_t, batch.t, batch.conditions)
        return {"x": x, **{name: clean(x_t, one, batch.t) for name, one in views.items()}}

    def denoised(self, batch: Draws) -> dict[str, Shaped[Tensor, "..."]]:
        """What the loss of the network of its samples reads: of the student as it is then."""
        with torch.no_grad():
            x = self.made(batch)
        x_t = interpolated(x, batch.noise, batch.t)
        return {"v_fake": self.fake(x_t, batch.t, batch.conditions), "x": x, "eps": batch.noise}

    def made(self, batch: Draws) -> Float[Tensor, "n d"]:
        """Sequences of the student, in the first of its steps; a block's last one ends at a clean prediction."""
        if batch.states is not None:
            return self.predicted(batch.states)
        times = self.grid(self.recipe.schedule_steps)
        grid = torch.cat([times[: len(batch.start[0])], times[-1:]])
        return self.rolled(self.student, batch.start, grid, batch.conditions)

    def grid(self, steps: int) -> Float[Tensor, "k"]:
        """The student's times in so many steps."""
        return times_of(steps, self.recipe.schedule_steps, self.recipe.timestep_shift)

    def rolled(
        self,
        student: FrameNetwork,
        noise: list[Float[Tensor, "s n e"]],
        grid: Float[Tensor, "k"],
        conditions: Conditions,
    ) -> Float[Tensor, "n d"]:
        network: Frames = partial(student, labels=conditions)
        return in_turn(network, noise, [grid] * self.blocks).flatten(1)

    def spent(self, batch: Any) -> int:
        if self.stage == DISTILL:
            return sum(len(one.t) for one in batch)
        return super().spent(batch)

    # --- what is seen ---------------------------------------------------------------------------------------------

    @property
    def sampler(self) -> FrameNetwork:
        """The student, or its average where there is one."""
        return self.student if self.average is None else self.average.module

    @torch.no_grad()
    def generate(
        self, labels: Int[Tensor, "n"], steps: int, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        """Sequences of the student, every block in so many steps."""
        noise = self.noise(budgets(self.blocks, steps), len(labels), generator)
        conditions = self.told(labels, labels).to(self.device)
        return self.rolled(self.sampler, noise, self.grid(steps), conditions).cpu()

    def in_steps(self, steps: int) -> Maker:
        return lambda labels, generator: self.generate(labels, steps, generator)

    def taught(self, labels: Int[Tensor, "n"], generator: torch.Generator) -> Float[Tensor, "n d"]:
        """The teacher's sequences."""
        noise = drawn((len(labels), self.source.dims), generator, self.device)
        return self.trajectories(noise, self.told(labels, labels).to(self.device))[-1].cpu()

    def held_out(self, labels: Int[Tensor, "n"], generator: torch.Generator) -> Float[Tensor, "m d"]:
        """The data's sequences, of one label."""
        return self.source.held_out(int(labels[0]), len(labels), generator)

    def evaluate(self, phase: str) -> Mapping[str, float]:
        """Energy distances, means over labels: ``eval/energy/K`` of the student in K steps to the data, and
        ``eval/first_block/K`` and ``eval/last_block/K``, of that block alone; ``eval/energy_teacher``, of the teacher
        as its trajectories are made (ode_guidance), and ``eval/energy_to_teacher``, the student's to it."""
        data, taught = self.each(self.held_out, 0), self.each(self.taught, 1)
        found = {"eval/energy_teacher": mean(distances(taught, data))}
        for steps in self.counts:
            ours = self.each(self.in_steps(steps), 2)
            apart = distances(ours, data)
            found[f"eval/energy/{steps}"] = mean(apart)
            for name, block in (("first", slice(self.entries)), ("last", slice(-self.entries, None))):
                found[f"eval/{name}_block/{steps}"] = mean(distances(ours, data, block))
            if steps == self.recipe.sampling_steps:
                found |= {
                    "eval/headline": mean(apart),
                    "eval/energy_to_teacher": mean(distances(ours, taught)),
                }
                found |= {f"eval/label/{label}": one for label, one in enumerate(apart)}
        return found

    def each(self, make: Maker, stream: int) -> list[Float[Tensor, "m d"]]:
        """So many sequences of each label, by a random stream of their own."""
        generator = torch.Generator().manual_seed(self.settings.seed + APART + stream)
        n = self.recipe.eval_samples
        return [make(torch.full((n,), label), generator) for label in range(self.source.classes)]

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """The last frame of whoever is trained beside the data's, in the plane, all labels together: of the teacher, or
        of the student by number of steps."""
        if self.source.is_images or self.entries != 2 * self.recipe.block_frames:
            return []
        classes = self.source.classes
        labels = torch.arange(-(-SHOWN // classes) * classes) % classes
        makers: dict[str, Maker] = {"teacher": self.taught}
        if not self.pretraining:
            makers = {in_steps(steps): self.in_steps(steps) for steps in self.counts}
        generator = torch.Generator().manual_seed(self.settings.seed + APART)
        data = [self.held_out(labels[labels == label], generator) for label in range(classes)]
        clouds = {"data": torch.cat(data)}
        clouds |= {name: make(labels, generator) for name, make in makers.items()}
        points = {name: one[:, -2:].tolist() for name, one in clouds.items()}
        return [Sample("points", {"points": points}, "last frame")]

    def export(self, folder: Path) -> None:
        write_weights(self.sampler.state_dict(), folder, STUDENT)


def distances(
    ours: Sequence[Float[Tensor, "n d"]], theirs: Sequence[Float[Tensor, "m d"]], part: slice = slice(None)
) -> list[float]:
    """The energy distance of each label's sequences, in part of their entries."""
    return [float(energy_distance(a[:, part], b[:, part])) for a, b in zip(ours, theirs, strict=True)]
