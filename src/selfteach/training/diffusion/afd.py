"""Adversarial distillation of a teacher that gives samples and nothing else (arXiv 2605.26105)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.objective.flow import interpolated, velocity
from selfteach.objective.transition import ode
from selfteach.recipes.r52_afd import AFD
from selfteach.training.diffusion.copies import Average, Frozen
from selfteach.training.diffusion.data import Source, source_named
from selfteach.training.diffusion.discriminator import Discriminator
from selfteach.training.diffusion.learner import NETWORK, DiffusionLearner
from selfteach.training.diffusion.network import VelocityNetwork
from selfteach.training.diffusion.sampling import jumps, sample, time_grid
from selfteach.training.learner import Role, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings

WARMUP, DISTILL = "discriminate", "distill"
STUDENT, DISCRIMINATOR, OLD, REFERENCE = "student", "discriminator", "old", "reference"


class Judged(NamedTuple):
    """``taught`` and ``own``: samples of teacher and student for the same ``prompts``. ``start`` is the noise that
    ``own`` was denoised from, ``noise`` and ``t`` are where the student is trained, ``order`` says whose score each
    sample is handed (its own)."""

    prompts: Int[Tensor, "n"]
    taught: Float[Tensor, "n d"]
    own: Float[Tensor, "n d"]
    start: Float[Tensor, "n d"]
    noise: Float[Tensor, "n d"]
    t: Float[Tensor, "n"]
    order: Int[Tensor, "n"]


class AFDLearner(DiffusionLearner[AFD]):
    """Stages: ``pretrain`` of the student on data of its own, ``discriminate`` of the discriminator alone, ``distill``
    of both. The teacher's samples are drawn once, by the run's seed."""

    def __init__(self, recipe: AFD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.teacher = source_named(recipe.data, settings.seed)
        ours, theirs = self.source, self.teacher
        require(
            ours.classes == theirs.classes,
            f"base_data {recipe.base_data} has {ours.classes} classes and the teacher's data {recipe.data} "
            f"{theirs.classes}: give data of as many",
        )
        require(
            ours.shape == theirs.shape,
            f"base_data {recipe.base_data} has rows of shape {list(ours.shape)} and the teacher's data {recipe.data} "
            f"{list(theirs.shape)}: give data of one shape",
        )
        sizes = (self.source.dims, self.source.classes, recipe.width, recipe.depth)
        self.discriminator = Discriminator(*sizes, seed=settings.seed + 1)
        with seeded(settings.seed):
            self.bought = self.teacher.draw(recipe.teacher_samples)

    def make_source(self) -> Source:
        return source_named(self.recipe.base_data, self.settings.seed)

    def own_stages(self) -> list[Stage]:
        recipe = self.recipe
        alone = recipe.discriminator_warmup if recipe.student_loss != "sft" else 0
        first = [Stage(WARMUP, alone)] if alone else []
        return [*first, Stage(DISTILL, recipe.optimization.steps)]

    @property
    def learning(self) -> list[str]:
        """What the present stage trains, in turn."""
        judge = self.recipe.student_loss != "sft" and not (
            self.stage == DISTILL and self.recipe.freeze_discriminator
        )
        return [DISCRIMINATOR] * judge + [STUDENT] * (self.stage == DISTILL)

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.network, DISCRIMINATOR: self.discriminator}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        if self.pretraining:
            return super().optimizers(wrapped)
        steps = next(stage.steps for stage in self.stages if stage.name == self.stage)
        how = replace(self.recipe.optimization, steps=steps)
        made = {
            DISCRIMINATOR: lambda: trained(
                wrapped[DISCRIMINATOR], replace(how, lr=self.recipe.discriminator_lr)
            ),
            STUDENT: lambda: trained(wrapped[NETWORK], how),
        }
        return {name: made[name]() for name in self.learning}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        if self.stage != DISTILL:
            return {}
        self.old, self.first = Average(self.network, self.recipe.ema_decay), Frozen(self.network)
        return {OLD: self.old, REFERENCE: self.first}

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        self.step = step
        if self.pretraining:
            return super().collect(step)
        n = self.recipe.optimization.batch_size
        taught, prompts = (one.to(self.device) for one in self.asked(n))
        start, noise = torch.randn(2, n, self.source.dims).to(self.device)
        own = sample(self.sampler(), start, prompts, time_grid(self.recipe.sampling_steps))
        order = shuffled(prompts) if self.recipe.shuffle_scores else torch.arange(n, device=self.device)
        return Judged(prompts, taught, own, start, noise, torch.rand(n).to(self.device), order)

    def asked(self, n: int) -> tuple[Float[Tensor, "n d"], Int[Tensor, "n"]]:
        """The teacher's samples with their prompts."""
        if not self.recipe.teacher_samples:
            return self.teacher.draw(n)
        rows = torch.randint(self.recipe.teacher_samples, (n,))
        return self.bought[0][rows], self.bought[1][rows]

    def sampler(self) -> VelocityNetwork:
        """Who samples: the old weights, where the student learns from what they say."""
        follows = self.stage == DISTILL and self.recipe.student_loss == "nft" and self.recipe.old == "ema"
        return self.old.module if follows else self.network

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.pretraining:
            yield from super().updates(batch)
            return
        outputs = {DISCRIMINATOR: self.compared, STUDENT: self.moved}
        for name in self.learning:
            yield update_of(self.recipe, name, lambda name=name: outputs[name](batch), self.step)

    def compared(self, batch: Judged) -> dict[str, Shaped[Tensor, "..."]]:
        """What the discriminator's loss reads."""
        score, prompts = self.discriminator, batch.prompts
        return {"d_teacher": score(batch.taught, prompts), "d_student": score(batch.own, prompts)}

    def moved(self, batch: Judged) -> dict[str, Shaped[Tensor, "..."]]:
        """What the student's loss reads."""
        if self.recipe.student_loss == "gan":
            own = self.denoised(batch.start, batch.prompts)
            scores = self.compared(batch._replace(own=own))
            return {"d_teacher": scores["d_teacher"], "score": scores["d_student"]}
        x0 = batch.taught if self.recipe.student_loss == "sft" else batch.own
        at = (interpolated(x0, batch.noise, batch.t), batch.t, batch.prompts)
        with torch.no_grad():
            score = self.discriminator(batch.own, batch.prompts)[batch.order]
            before = {"v_old": self.old.module(*at), "v_ref": self.first.module(*at)}
        told = {"v_theta": self.network(*at), "v": velocity(x0, batch.noise)}
        return {**told, **before, "score": score, "y": batch.prompts}

    def denoised(self, start: Float[Tensor, "n d"], prompts: Int[Tensor, "n"]) -> Float[Tensor, "n d"]:
        """The student's samples, differentiable in its weights."""
        x = start
        for t, s in jumps(time_grid(self.recipe.sampling_steps).to(self.device), len(start)):
            x = ode(x, self.network(x, t, prompts), t, s).mean
        return x

    # --- what is seen ---------------------------------------------------------------------------------------------

    def reference(self, label: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        return self.teacher.held_out(label, self.recipe.eval_samples, generator)

    @torch.no_grad()
    def metrics(self, batch: Any, done: Any) -> Mapping[str, float]:
        """``discriminator/accuracy``: the share of pairs whose better score is the teacher's sample."""
        if self.pretraining or self.recipe.student_loss == "sft":
            return {}
        scores = self.compared(batch)
        return {"discriminator/accuracy": float((scores["d_teacher"] > scores["d_student"]).float().mean())}


def shuffled(prompts: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    """An order in which each row is another's of the same prompt, by chance."""
    drawn = torch.randperm(len(prompts)).to(prompts.device)
    order = torch.empty_like(drawn)
    order[prompts.argsort(stable=True)] = drawn[prompts[drawn].argsort(stable=True)]
    return order
