"""Cloning a teacher and a student from an expert, and distilling the one into the other where that goes
(arXiv 2603.26666)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.objective.advantage import group_advantage
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r25_vla_opd import VLAOPD, chosen
from selfteach.task.embodied.named import task_named
from selfteach.task.embodied.task import EmbodiedTask
from selfteach.training.embodied.demonstrations import expert_plays, expert_to_clone
from selfteach.training.embodied.learner import EmbodiedLearner
from selfteach.training.embodied.rollout import (
    TRAINING,
    Act,
    Transitions,
    held_out_seeds,
    play,
    training_seeds,
)
from selfteach.training.embodied.token_policy import ActionTokens, TokenPolicy
from selfteach.training.learner import Numbers, Stage, Trained, Update
from selfteach.training.network_learner import trained, update_of, write_weights
from selfteach.training.trainer import Settings

TEACH, CLONE, DISTILL, REINFORCE = "teach", "clone", "distill", "reinforce"
NETWORK, TEACHER = "network", "teacher"
AT_ONCE = 64
"""Episodes that the expert plays side by side."""


class Demonstrations(NamedTuple):
    """What the expert did: states of its episodes, its tokens, and which episode each is of."""

    observation: Shaped[Tensor, "n o"]
    tokens: Int[Tensor, "n D"]
    episode: Int[Tensor, "n"]


class Rollouts(NamedTuple):
    """The student's own episodes, and what the losses read of them and do not move (``fixed``)."""

    played: Transitions
    fixed: Mapping[str, Shaped[Tensor, "n *x"]]


class VLAOPDLearner(EmbodiedLearner[VLAOPD]):
    """Stages: ``teach`` a teacher by many demonstrations and ``clone`` the student by few, both of all environments;
    ``distill`` on one of them; ``reinforce`` there."""

    def __init__(self, recipe: VLAOPD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.task = shortened(self.task, recipe.max_episode_steps)
        tasks = [self.task]
        if recipe.unseen:
            tasks.append(shortened(task_named(recipe.unseen), recipe.max_episode_steps))
        self.tasks = tasks
        spaces = [one.make(1) for one in tasks]
        require(
            len({(str(one.single_observation_space), str(one.single_action_space)) for one in spaces}) == 1,
            f"{recipe.environment} and {recipe.unseen} differ in observations or actions: leave unseen empty",
        )
        for one in tasks:
            expert_to_clone(one)
        space = spaces[0].single_observation_space
        self.tokens = ActionTokens(self.task.name, spaces[0].single_action_space, recipe.bins)
        self.network, self.teacher = (
            TokenPolicy(self.task, space, self.tokens, recipe.width, seed)
            for seed in (settings.seed, settings.seed + 1)
        )
        self.stages = [
            Stage(TEACH, recipe.teacher_steps),
            Stage(CLONE, recipe.clone_steps),
            Stage(DISTILL, recipe.optimization.steps),
            *([Stage(REINFORCE, recipe.reinforce_steps)] if recipe.reinforce_steps else []),
        ]
        self.stage = TEACH
        self.envs = self.task.make(recipe.optimization.batch_size)

    def modules(self) -> Mapping[str, nn.Module]:
        return {NETWORK: self.network, TEACHER: self.teacher}

    def enter(self, stage: int) -> None:
        self.stage = self.stages[stage].name

    @property
    def cloning(self) -> bool:
        return self.stage in (TEACH, CLONE)

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        recipe = self.recipe
        if not self.cloning:
            how = recipe.optimization
            steps = recipe.reinforce_steps if self.stage == REINFORCE else how.steps
            return {NETWORK: trained(wrapped[NETWORK], replace(how, steps=steps))}
        name, steps = (
            (TEACHER, recipe.teacher_steps) if self.stage == TEACH else (NETWORK, recipe.clone_steps)
        )
        return {
            name: trained(
                wrapped[name], NetworkOptimization(lr=recipe.clone_lr, schedule="cosine", steps=steps)
            )
        }

    # --- demonstrations -------------------------------------------------------------------------------------------

    @cached_property
    def of_teacher(self) -> Demonstrations:
        return self.demonstrated(self.recipe.teacher_demonstrations, 0, self.recipe.teacher_noise)

    @cached_property
    def of_student(self) -> Demonstrations:
        return self.demonstrated(self.recipe.demonstrations, self.recipe.teacher_demonstrations, 0.0)

    def demonstrated(self, count: int, after: int, noise: float) -> Demonstrations:
        """``count`` episodes of the expert in each environment, behind the first ``after``; those that do not succeed
        are left out. Of a share ``noise`` of the steps a random action is taken, and the expert's is learned. A
        function of the run's seed. UserError where none succeeds."""
        parts, episodes = list[Demonstrations](), 0
        first = TRAINING + (self.settings.seed * 1_000_003 + after) % 2**30
        for task in self.tasks:
            for begin in range(0, count, AT_ONCE):
                seeds = range(first + begin, first + min(begin + AT_ONCE, count))
                played = expert_plays(task, seeds, noise)
                assert played.label is not None
                good = played.alive & (played.succeeded if task.success is not None else True)
                episode = torch.arange(episodes, episodes + len(seeds)).expand_as(good)
                tokens = self.tokens.encoded(played.label[good])
                parts.append(Demonstrations(played.observation[good], tokens, episode[good]))
                episodes += len(seeds)
        found = Demonstrations(*(torch.cat(column) for column in zip(*parts, strict=True)))
        require(
            len(found.tokens) > 0,
            f"the expert of {self.task.name} succeeds in no episode of {self.task.max_steps} steps: raise "
            "max_episode_steps",
        )
        return found

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Any:
        if self.stage == TEACH:
            return self.drawn(self.of_teacher)
        if self.stage == CLONE:
            return self.drawn(self.of_student)
        if self.stage == DISTILL and self.recipe.objective == "sft":
            own = self.of_student.episode < self.recipe.demonstrations  # none of what is not trained on
            return self.drawn(Demonstrations(*(one[own] for one in self.of_student)))
        groups = self.recipe.optimization.batch_size // self.recipe.per_seed
        seeds = [one for one in training_seeds(groups) for _ in range(self.recipe.per_seed)]
        with self.clock("sample"):
            played = play(self.task, self.envs, self.policy(self.recipe.temperature), seeds)
        return Rollouts(played, self.scored(self.read(played)))

    def drawn(self, demonstrations: Demonstrations) -> Demonstrations:
        rows = torch.randint(len(demonstrations.tokens), (self.recipe.clone_batch_size,))
        return Demonstrations(*(one[rows] for one in demonstrations))

    def updates(self, batch: Any) -> Iterator[Update]:
        if self.cloning:
            name, network = (TEACHER, self.teacher) if self.stage == TEACH else (NETWORK, self.network)
            yield Update((name,), lambda: imitate(network, batch))
            return
        fixed = batch.fixed if isinstance(batch, Rollouts) else self.scored(imitated(batch))
        begun = self.recipe.optimization.steps if self.stage == REINFORCE else 0
        yield update_of(self.recipe, NETWORK, lambda: self.outputs(fixed), begun)

    def read(self, played: Transitions) -> dict[str, Shaped[Tensor, "n *x"]]:
        """The recipe's outputs but for log-probs; ``s`` are the states themselves."""
        episode = torch.arange(played.alive.shape[1])
        advantage = group_advantage(played.earned(self.task), episode // self.recipe.per_seed)
        return {
            "s": played.kept(played.observation),
            "a": self.tokens.encoded(played.kept(played.action)),
            "tau": played.kept(episode.expand_as(played.alive)),
            "A": played.kept(advantage.expand(played.alive.shape)),
        }

    @torch.no_grad()
    def scored(self, read: Mapping[str, Shaped[Tensor, "n *x"]]) -> dict[str, Shaped[Tensor, "n *x"]]:
        """With the teacher's log-probs."""
        found = {name: one.to(self.device) for name, one in read.items()}
        return {**found, "log_pi_T": self.teacher(found["s"], self.recipe.temperature)}

    def outputs(self, fixed: Mapping[str, Shaped[Tensor, "n *x"]]) -> dict[str, Shaped[Tensor, "n *x"]]:
        return {"log_pi": self.network(fixed["s"], self.recipe.temperature), **fixed}

    def spent(self, batch: Any) -> int:
        """Steps of the student in the environment, or states of the expert that were looked at."""
        return batch.played.steps if isinstance(batch, Rollouts) else len(batch.tokens)

    # --- what is seen ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def metrics(self, batch: Any, done: Sequence[Numbers]) -> Mapping[str, float]:
        """Of the student's own episodes: ``reward/mean``, success (or the return); ``policy/entropy`` and
        ``reverse_kl``, nats a token at the states it visited, after the update."""
        if not isinstance(batch, Rollouts):
            return {}
        log_pi = self.network(batch.fixed["s"], self.recipe.temperature)
        p = log_pi.exp()
        return {
            "reward/mean": float(batch.played.earned(self.task).mean()),
            "policy/entropy": -float((p * log_pi).sum(-1).mean()),
            "reverse_kl": float((p * (log_pi - batch.fixed["log_pi_T"])).sum(-1).mean()),
        }

    def policy(self, temperature: float, network: TokenPolicy | None = None) -> Act:
        network = network or self.network
        return lambda observations: self.tokens.decoded(network.act(observations, temperature))

    def acting(self) -> Act:
        return self.policy(0.0)

    def evaluate(self, phase: str) -> Mapping[str, float]:
        """Of the student; ``eval/unseen``, its success (or return) in the environment that is not trained on, and
        ``eval/teacher``, the teacher's in the one that is."""
        found = dict(super().evaluate(phase))
        if self.recipe.unseen:
            found["eval/unseen"] = self.rate(self.tasks[1], self.network)
        if self.stage != TEACH:
            found["eval/teacher"] = self.teacher_rate
        return found

    @cached_property
    def teacher_rate(self) -> float:
        return self.rate(self.task, self.teacher)

    def rate(self, task: EmbodiedTask, network: TokenPolicy) -> float:
        count = self.recipe.eval_episodes
        played = play(task, task.make(count), self.policy(0.0, network), held_out_seeds(count))
        return float(played.earned(task).double().mean())

    def export(self, folder: Path) -> None:
        write_weights(self.network.state_dict(), folder, "policy")


def imitated(batch: Demonstrations) -> dict[str, Shaped[Tensor, "n *x"]]:
    """Of demonstrations what ``VLAOPDLearner.read`` makes of rollouts; nobody compares their episodes."""
    nothing = torch.zeros(len(batch.tokens))
    return {"s": batch.observation, "a": batch.tokens, "tau": batch.episode, "A": nothing}


def shortened(task: EmbodiedTask, most: int | None) -> EmbodiedTask:
    return task if most is None else replace(task, max_steps=min(most, task.max_steps))


def imitate(network: TokenPolicy, batch: Demonstrations) -> Numbers:
    """Cross-entropy of the expert's tokens."""
    device = network.head.weight.device
    loss = -chosen(network(batch.observation.to(device)), batch.tokens.to(device)).mean()
    loss.backward()
    return {"loss": loss.item()}
