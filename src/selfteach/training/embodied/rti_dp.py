"""A diffusion policy cloned from a scripted expert, and the samplers that it acts by (arXiv 2508.05396)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.recipes.r56_rti_dp import RTIDP
from selfteach.task.embodied.task import Array, EmbodiedTask
from selfteach.training.diffusion.copies import WarmedAverage
from selfteach.training.embodied.demonstrations import expert_plays
from selfteach.training.embodied.diffusion_policy import (
    Chunks,
    DiffusionPolicy,
    NoiseMLP,
    Range,
    chunks,
    clipped_guess,
    denoised,
    gain,
    moved_on,
    scheduler_of,
)
from selfteach.training.embodied.learner import APART, EmbodiedLearner
from selfteach.training.embodied.rollout import Act, Transitions, training_seeds
from selfteach.training.learner import Role, Sample, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of, write_weights
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings

CLONE, POLICY = "clone", "policy"
OF_SAMPLERS = ("success", "return", "length", "calls", "switches")
"""What is measured of every sampler that is compared."""
PROBED = 256
"""Chunks whose contraction is measured."""


class Plan(NamedTuple):
    """How a sampler makes chunks: the denoising steps of an episode's first one and of those after it, what the latter
    begin at, and how many actions are executed of each."""

    first: tuple[int, ...]
    later: tuple[int, ...]
    start: Literal["guess", "noise", "noised"]
    executed: int = 1


def plan_of(recipe: RTIDP, sampler: str) -> Plan:
    """The samplers by name."""
    every, kept = tuple(reversed(range(recipe.diffusion_steps))), recipe.timesteps
    return {
        "warm-start": Plan(every, kept, "guess"),
        "full": Plan(every, every, "noise", recipe.n_action_steps),
        "closed-loop": Plan(every, every, "noise"),
        "cold": Plan(kept, kept, "noise"),
        "noised": Plan(every, kept, "noised"),
    }[sampler]


class ActionSampler:
    """Acts in parallel environments, each with a chunk of its own; one whose episode begins has none. ``calls``: how
    often each environment's network was asked, a row [E] an action."""

    def __init__(self, policy: DiffusionPolicy, recipe: RTIDP, plan: Plan, seed: int) -> None:
        self.policy, self.recipe, self.plan = policy, recipe, plan
        self.scheduler = scheduler_of(recipe.diffusion_steps, clip_sample=recipe.clip_sample)
        self.generator = torch.Generator().manual_seed(seed)
        self.chunk = torch.empty(0)
        self.used = torch.empty(0, dtype=torch.long)
        self.known = torch.empty(0, dtype=torch.bool)
        self.calls: list[Int[Tensor, "E"]] = []

    def begin(self, mask: Array) -> None:
        """Forget the chunks of the environments in ``mask`` [E], whose episodes begin."""
        if len(self.known) != len(mask):
            device, acted = self.policy.acted.middle.device, self.policy.acted.middle
            self.chunk = torch.zeros(len(mask), self.policy.horizon, len(acted), device=device)
            self.used = torch.zeros(len(mask), dtype=torch.long)
            self.known = torch.zeros(len(mask), dtype=torch.bool)
        self.known[torch.from_numpy(np.array(mask))] = False

    def __call__(self, observations: Array) -> Array:
        seen = torch.from_numpy(np.asarray(observations)).flatten(1).float().to(self.chunk.device)
        plan, over = self.plan, self.used >= self.plan.executed
        fresh, later = ~self.known, self.known & over
        self.make(fresh, seen, plan.first, "noise")
        self.make(later, seen, plan.later, plan.start)
        self.calls.append(fresh * len(plan.first) + later * len(plan.later))
        now = self.chunk[torch.arange(len(seen)), self.used]
        self.known[:], self.used = True, self.used + 1
        action: Array = self.policy.acted.outward(now).cpu().numpy()
        return action

    def make(
        self, rows: Bool[Tensor, "E"], seen: Float[Tensor, "E o"], timesteps: tuple[int, ...], start: str
    ) -> None:
        """New chunks for some environments."""
        if not rows.any():
            return
        begun = self.start(self.chunk[rows], timesteps[0], start)
        predict = self.policy.under(seen[rows])
        self.chunk[rows] = denoised(predict, self.scheduler, begun, timesteps, self.generator)
        self.used[rows] = 0

    def start(self, chunk: Float[Tensor, "n T a"], k: int, kind: str) -> Float[Tensor, "n T a"]:
        """What a denoising from step k on begins at: noise, the guess, or the guess with the noise of step k."""
        guess = self.guess(chunk)
        if kind == "guess":
            return guess
        noise = torch.randn(chunk.shape, generator=self.generator).to(chunk.device)
        return noise if kind == "noise" else self.scheduler.add_noise(guess, noise, torch.tensor([k]))

    def guess(self, chunk: Float[Tensor, "n T a"]) -> Float[Tensor, "n T a"]:
        moved = moved_on(chunk, self.plan.executed)
        if self.recipe.discrete_rule == "clip":
            return clipped_guess(moved, self.policy.acted.discrete, self.recipe.factor)
        return moved


class Noised(NamedTuple):
    """A batch: normalized chunks, their observations, noise and its steps."""

    action: Float[Tensor, "n T a"]
    observation: Float[Tensor, "n o"]
    epsilon: Float[Tensor, "n T a"]
    k: Int[Tensor, "n"]


class RTIDPLearner(EmbodiedLearner[RTIDP]):
    """Stage ``clone``. Demonstrations are the expert's, played by the run's seed when the learner is made."""

    unit = "chunks"

    def __init__(self, recipe: RTIDP, settings: Settings) -> None:
        super().__init__(recipe, settings)
        require_box(self.task, recipe.discrete)
        self.data = self.demonstrated()
        self.policy = self.make_policy()
        self.scheduler = scheduler_of(recipe.diffusion_steps, clip_sample=recipe.clip_sample)
        self.average: WarmedAverage[DiffusionPolicy] | None = None
        self.stages = [Stage(CLONE, recipe.optimization.steps)]

    def demonstrated(self) -> Chunks:
        """UserError where the environment has no expert."""
        with seeded(self.settings.seed):
            seeds = training_seeds(self.recipe.demonstrations)
        return chunks(expert_plays(self.task, seeds), self.recipe.horizon)

    def make_policy(self) -> DiffusionPolicy:
        recipe, (seen, acted) = self.recipe, self.data
        size = 1 / recipe.factor if recipe.discrete_rule == "scale" else 1.0
        sizes = (seen.shape[1], recipe.horizon, acted.shape[2], recipe.width, recipe.depth)
        network = NoiseMLP(*sizes, steps=recipe.diffusion_steps, seed=self.settings.seed)
        of_actions = Range(acted.flatten(0, 1), recipe.discrete, size)
        return DiffusionPolicy(network, Range(seen), of_actions, recipe.horizon)

    def modules(self) -> Mapping[str, nn.Module]:
        return {POLICY: self.policy}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        self.data = Chunks(*(one.to(self.device) for one in self.data))
        return {POLICY: trained(wrapped[POLICY], self.recipe.optimization)}

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Role]:
        self.average = WarmedAverage(self.policy, self.recipe.ema_decay, self.recipe.ema_power)
        return {"average": self.average}

    def shown(self) -> DiffusionPolicy:
        """The average, once there is one."""
        return self.policy if self.average is None else self.average.module

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Noised:
        n = self.recipe.optimization.batch_size
        rows = torch.randint(len(self.data.observation), (n,)).to(self.device)
        action = self.policy.acted.inward(self.data.action[rows])
        k = torch.randint(self.recipe.diffusion_steps, (n,)).to(self.device)
        epsilon = torch.randn(action.shape).to(self.device)
        return Noised(action, self.data.observation[rows], epsilon, k)

    def updates(self, batch: Noised) -> Iterator[Update]:
        yield update_of(self.recipe, POLICY, lambda: self.outputs(batch), 0)

    def outputs(self, batch: Noised) -> Mapping[str, Float[Tensor, "n T a"]]:
        noisy = self.scheduler.add_noise(batch.action, batch.epsilon, batch.k)
        return {
            "epsilon": batch.epsilon,
            "epsilon_theta": self.policy(noisy, batch.k, batch.observation),
        }

    def spent(self, batch: Any) -> int:
        return len(batch.k)

    # --- what is seen ---------------------------------------------------------------------------------------------

    def acting(self) -> Act:
        return self.sampler(self.recipe.sampler)

    def sampler(self, name: str) -> ActionSampler:
        """One of the samplers, at its beginning."""
        plan = plan_of(self.recipe, name)
        return ActionSampler(self.shown(), self.recipe, plan, self.settings.seed + APART)

    @property
    def names(self) -> list[str]:
        """Every sampler that is evaluated, the headline's first."""
        return list(dict.fromkeys([self.recipe.sampler, *self.recipe.compared]))

    def evaluate(self, phase: str) -> Mapping[str, float]:
        """What the headline's sampler does, and ``eval/NAME/SAMPLER`` of each one that is compared (before training of
        none); ``eval/contraction``: of S, where the demonstrations are."""
        each = {name: self.measured(name) for name in (self.names[:1] if phase == "before" else self.names)}
        found = {f"eval/{key}": value for key, value in each[self.recipe.sampler].items()}
        for name, one in each.items():
            found |= {f"eval/{key}/{name}": one[key] for key in OF_SAMPLERS if key in one}
        return {**found, "eval/contraction": self.contraction()}

    def measured(self, name: str) -> dict[str, float]:
        """What ``judged`` says of a sampler, ``calls`` (of the network, an executed action) and ``switches`` (of the
        way that actions take, an episode), where the task tells ways apart."""
        act = self.sampler(name)
        played = self.evaluated(act)
        found = {key.removeprefix("eval/"): value for key, value in self.judged(played).items()}
        found["calls"] = float(torch.stack(act.calls)[played.alive].double().mean())
        if self.task.way is not None:
            found["switches"] = switches(self.task, played)
        return found

    def contraction(self) -> float:
        """The median of what S makes of a small change of a guess (``gain``)."""
        policy, seen = self.shown(), self.data.observation[:PROBED]
        guess = policy.acted.inward(self.data.action[:PROBED])
        kept, seed = self.recipe.timesteps, self.settings.seed + APART
        return float(gain(policy.under(seen), self.scheduler, guess, kept, seed).median())

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """Paths of each sampler, where the task has places."""
        if phase != "after" or self.task.places is None:
            return super().samples(batch, phase)
        return [
            Sample("points", {"points": self.paths(self.sampler(name))}, f"paths of {name}")
            for name in self.names
        ]

    def export(self, folder: Path) -> None:
        write_weights(self.shown().state_dict(), folder, POLICY)


def require_box(task: EmbodiedTask, discrete: tuple[int, ...]) -> None:
    """UserError where actions or observations are no arrays of numbers, or a discrete channel is none of theirs."""
    envs = task.make(1)
    for what, space in (
        ("actions", envs.single_action_space),
        ("observations", envs.single_observation_space),
    ):
        require(
            type(space).__name__ == "Box" and len(space.shape or ()) > 0,
            f"environment {task.name} has {what} of {space!s:.60}: a diffusion policy wants a Box, as point-reach has",
        )
    shape = envs.single_action_space.shape or ()
    require(
        len(shape) == 1, f"environment {task.name} has actions of shape {shape}: a diffusion policy wants [a]"
    )
    for channel in discrete:
        require(
            -shape[0] <= channel < shape[0],
            f"discrete names channel {channel}, and actions of {task.name} have {shape[0]}",
        )


def switches(task: EmbodiedTask, played: Transitions) -> float:
    """How often an episode's actions change their way, in the mean; actions that take none are passed over."""
    assert task.way is not None
    seen, acted = (one.flatten(0, 1).numpy() for one in (played.observation, played.action))
    ways = torch.from_numpy(task.way(seen, acted)).view(played.alive.shape) * played.alive
    changes = 0
    for one in ways.T:
        taken = one[one != 0]
        changes += int((taken[1:] != taken[:-1]).sum())
    return changes / ways.shape[1]
