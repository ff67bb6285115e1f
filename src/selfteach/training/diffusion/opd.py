"""Specialists of one base, distilled into one student along its own denoising (arXiv 2605.15055)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.objective.energy import energy_distance
from selfteach.objective.transition import Transition, cps, diffusion, flow_sde, ode
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r48_diffusionopd import DiffusionOPD
from selfteach.training.diffusion.copies import Average
from selfteach.training.diffusion.learner import APART, NETWORK, DiffusionLearner, Matching
from selfteach.training.diffusion.network import VelocityNetwork
from selfteach.training.diffusion.sampling import drawn, jumps, sample, time_grid, velocity_at
from selfteach.training.learner import Role, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of
from selfteach.training.trainer import Settings

SPECIALIZE, DISTILL = "specialize", "distill"
Field = Callable[[Float[Tensor, "n d"], Float[Tensor, "n"]], Float[Tensor, "n d"]]
"""(x_t, t) → velocities of the batch's rows."""


class Stored(NamedTuple):
    """States of rollouts, all trained steps of all rows: x_t, t, where it went (s, x_s), the teacher's mean there."""

    x: Float[Tensor, "n d"]
    t: Float[Tensor, "n"]
    s: Float[Tensor, "n"]
    labels: Int[Tensor, "n"]
    x_next: Float[Tensor, "n d"]
    mu_T: Float[Tensor, "n d"]


def teacher_name(k: int) -> str:
    """Of a task's teacher, among modules and optimizers."""
    return f"teacher-{k}"


class DiffusionOPDLearner(DiffusionLearner[DiffusionOPD]):
    """Stages: ``pretrain`` the base on all data under every label; ``specialize`` a copy of it for each label on that
    label's data; ``distill`` them into the base."""

    def __init__(self, recipe: DiffusionOPD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.tasks = self.source.classes
        require(self.tasks > 1, f"data {recipe.data} has one label, and each label is a task: take opposite")
        self.teachers = [copy.deepcopy(self.network) for _ in range(self.tasks)]
        self.average: Average[VelocityNetwork] | None = None
        self.grid = time_grid(recipe.sampling_steps)

    def own_stages(self) -> list[Stage]:
        recipe = self.recipe
        return [Stage(SPECIALIZE, recipe.specialist_steps), Stage(DISTILL, recipe.optimization.steps)]

    def modules(self) -> Mapping[str, nn.Module]:
        return {**super().modules(), **{teacher_name(k): one for k, one in enumerate(self.teachers)}}

    def enter(self, stage: int) -> None:
        super().enter(stage)
        self.average = None
        if self.stage == SPECIALIZE:
            for one in self.teachers:
                one.load_state_dict(self.network.state_dict())

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe = self.recipe
        if self.stage == SPECIALIZE:
            how = NetworkOptimization(
                lr=recipe.specialist_lr, steps=recipe.specialist_steps, schedule="cosine"
            )
            return {name: trained(wrapped[name], how) for name in map(teacher_name, range(self.tasks))}
        if self.stage == DISTILL:
            return {NETWORK: trained(wrapped[NETWORK], recipe.optimization)}
        return super().optimizers(wrapped)

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        if self.stage != DISTILL:
            return {}
        self.average = Average(self.network, self.recipe.ema_decay)
        return {"average": self.average}

    def shown(self) -> VelocityNetwork:
        return self.network if self.average is None else self.average.module

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        if self.stage == SPECIALIZE:
            return [self.task_batch(k) for k in range(self.tasks)]
        return self.rollouts(self.tasks_of(step)) if self.stage == DISTILL else super().collect(step)

    def matching(self, n: int) -> Matching:
        """The base is told labels that say nothing of the example."""
        batch = super().matching(n)
        anew = torch.randint(self.tasks, (n,)).to(self.device)
        return batch._replace(labels=torch.where(batch.labels == self.network.null, batch.labels, anew))

    def task_batch(self, k: int) -> Matching:
        batch = super().matching(self.recipe.pretrain_batch_size)
        x0 = self.source.draw_of(torch.full((len(batch.t),), k)).to(self.device)
        return batch._replace(x0=x0, labels=torch.where(batch.labels == self.network.null, batch.labels, k))

    def tasks_of(self, step: int) -> Int[Tensor, "n"]:
        """Which task each of a batch's rollouts is of: ``batch_size`` of every task, or so many of one."""
        how = self.recipe.optimization
        if self.recipe.order == "cascade":
            return torch.full((self.tasks * how.batch_size,), step * self.tasks // how.steps)
        return torch.arange(self.tasks).repeat_interleave(how.batch_size)

    @torch.no_grad()
    def rollouts(self, labels: Int[Tensor, "n"]) -> Stored:
        """Denoise noise as far as steps are trained, and ask each row's teacher at every state."""
        labels = labels.to(self.device)

        def teacher(x: Float[Tensor, "n d"], t: Float[Tensor, "n"]) -> Float[Tensor, "n d"]:
            return self.taught(x, t, labels)

        def student(x: Float[Tensor, "n d"], t: Float[Tensor, "n"]) -> Float[Tensor, "n d"]:
            return velocity_at(self.network, x, t, labels, guidance=self.recipe.guidance)

        writer: Field = student if self.recipe.states == "student" else teacher
        x, found = drawn((len(labels), self.source.dims), None, self.device), []
        steps = list(jumps(self.grid.to(self.device), len(labels)))
        for t, s in steps[: self.recipe.trained_steps]:
            to = self.transition(x, writer(x, t), t, s)
            x_next = to.mean if self.recipe.sampler == "ode" else to.sample(drawn(x.shape, None, self.device))
            found.append(Stored(x, t, s, labels, x_next, self.transition(x, teacher(x, t), t, s).mean))
            x = x_next
        return Stored(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def taught(
        self, x: Float[Tensor, "n d"], t: Float[Tensor, "n"], labels: Int[Tensor, "n"]
    ) -> Float[Tensor, "n d"]:
        """Each row's velocity by its label's teacher, at that teacher's guidance."""
        found = torch.empty_like(x)
        for k in labels.unique().tolist():
            own, scale = labels == k, self.teacher_scale(k)
            found[own] = velocity_at(self.teachers[k], x[own], t[own], labels[own], guidance=scale)
        return found

    def transition(
        self,
        x: Float[Tensor, "n d"],
        velocity: Float[Tensor, "n d"],
        t: Float[Tensor, "n"],
        s: Float[Tensor, "n"],
    ) -> Transition:
        recipe = self.recipe
        if recipe.sampler == "sde":
            return flow_sde(x, velocity, t, s, recipe.noise_level, float(self.grid[1]))
        return (
            cps(x, velocity, t, s, recipe.noise_level) if recipe.sampler == "cps" else ode(x, velocity, t, s)
        )

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.stage == SPECIALIZE:
            for k, own in enumerate(batch):
                yield Update((teacher_name(k),), partial(self.match, own, self.teachers[k]))
        elif self.stage == DISTILL:
            yield update_of(self.recipe, NETWORK, lambda: self.outputs(batch), 0)
        else:
            yield from super().updates(batch)

    def outputs(self, batch: Stored) -> Mapping[str, Float[Tensor, "..."]]:
        recipe = self.recipe
        velocity = velocity_at(self.network, batch.x, batch.t, batch.labels, guidance=recipe.guidance)
        to = self.transition(batch.x, velocity, batch.t, batch.s)
        noisy = recipe.noise_level if recipe.sampler == "sde" else 0.0
        g = diffusion(batch.t, noisy, float(self.grid[1]))
        return {"mu": to.mean, "mu_T": batch.mu_T, "s": to.std, "g": g, "x_next": batch.x_next}

    def spent(self, batch: Any) -> int:
        return sum(len(one.t) for one in batch) if self.stage == SPECIALIZE else len(batch.t)

    # --- what is seen ---------------------------------------------------------------------------------------------

    def evaluate(self, phase: str) -> Mapping[str, float] | None:
        """``eval/teacher``: the headline of the teachers, each of its own task, as soon as there are any."""
        found = dict(super().evaluate(phase) or {})
        if self.stage == DISTILL:
            each = []
            for k, own in enumerate(self.teachers):
                generator = torch.Generator().manual_seed(self.settings.seed + APART)
                theirs = self.reference(k, generator)
                noise = drawn((self.recipe.eval_samples, self.source.dims), generator, self.device)
                labels = torch.full((len(noise),), k, device=self.device)
                made = sample(own, noise, labels, self.grid, guidance=self.teacher_scale(k))
                each.append(float(energy_distance(made.cpu(), theirs)))
            found["eval/teacher"] = sum(each) / len(each)
        return found

    def teacher_scale(self, k: int) -> float:
        """A teacher's guidance."""
        scales = self.recipe.teacher_guidance
        return scales[min(k, len(scales) - 1)]

    def generate(
        self, labels: Int[Tensor, "n"], steps: int, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        noise = drawn((len(labels), self.source.dims), generator, self.device)
        guidance = 1.0 if self.pretraining else self.recipe.guidance
        return sample(self.shown(), noise, labels.to(self.device), time_grid(steps), guidance=guidance).cpu()
