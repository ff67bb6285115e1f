"""PPO that is also pulled to what a teacher would do at the states it visits (arXiv 2503.05833)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from selfteach.objective.returns import generalized_advantage
from selfteach.recipes.r53_rpd import RPD
from selfteach.task.embodied.task import Array
from selfteach.training.embodied.actor import Actor
from selfteach.training.embodied.learner import APART, EmbodiedLearner
from selfteach.training.embodied.rollout import Act, Transitions, held_out_seeds, play, training_seeds
from selfteach.training.embodied.teacher import ActionTeacher
from selfteach.training.learner import Numbers, Stage, Trained, Update
from selfteach.training.network_learner import trained, write_weights
from selfteach.training.trainer import Settings

POLICY = "policy"
EPSILON = 1e-5
"""Adam's, of every released PPO; torch's own is 1e-8."""
Outputs = dict[str, Shaped[Tensor, "..."]]


class Rollouts(NamedTuple):
    """A batch: T steps of E environments, n = T E transitions step by step, as the losses read them. ``a_T`` and
    ``std_T`` are NaN where nobody was asked."""

    played: Transitions
    observation: Shaped[Tensor, "n *o"]
    a: Float[Tensor, "n d"]
    log_p_old: Float[Tensor, "n"]
    A: Float[Tensor, "n"]
    R: Float[Tensor, "n"]
    a_T: Float[Tensor, "n d"]
    std_T: Float[Tensor, "n d"]
    step: int


class RPDLearner(EmbodiedLearner[RPD]):
    """Every batch begins with a reset of all environments, whose seeds are drawn anew: so a checkpoint holds none of
    their state. The policy is a Gaussian, so actions are those of a bounded Box."""

    def __init__(self, recipe: RPD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.stages = [Stage("train", recipe.optimization.steps)]
        self.envs = self.task.make(recipe.num_envs)
        self.actor = Actor(
            self.task.name,
            self.envs,
            width=recipe.width,
            depth=recipe.depth,
            log_std=recipe.log_std_init,
            seed=settings.seed,
        )
        self.teacher = self.asked() if recipe.distill_weight > 0 else None

    def asked(self) -> ActionTeacher:
        recipe = self.recipe
        return ActionTeacher(
            self.task,
            recipe.teacher,
            samples=recipe.teacher_samples,
            bias=recipe.teacher_bias,
            noise=recipe.teacher_noise,
        )

    def modules(self) -> Mapping[str, nn.Module]:
        return {POLICY: self.actor}

    def optimizers(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Trained]:
        """The schedule follows updates; a batch that stops early makes fewer of them."""
        how = self.recipe.optimization
        made = trained(wrapped[POLICY], how, how.steps * self.updates_of_a_batch)
        if how.optim != "sgd":
            for group in made.optimizer.param_groups:
                group["eps"] = EPSILON
        return {POLICY: made}

    @property
    def updates_of_a_batch(self) -> int:
        recipe = self.recipe
        return recipe.epochs * -(-recipe.num_envs * recipe.num_steps // recipe.optimization.batch_size)

    # --- a step ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, step: int) -> Any:
        said: list[tuple[Tensor, Tensor]] = []  # log-density and value of each step

        def act(observation: Array) -> Array:
            action, log_p, value = self.actor.drawn(self.placed(observation))
            said.append((log_p, value))
            return self.actor.shaped(action)

        recipe = self.recipe
        with self.clock("sample"):
            played = play(
                self.task,
                self.envs,
                act,
                training_seeds(recipe.num_envs),
                steps=recipe.num_steps,
                continuing=True,
                ask=self.asking(self.envs) if recipe.weight(step) > 0 else None,
            )
        log_p, value = (torch.stack(column) for column in zip(*said, strict=True))
        return self.rollouts(played, log_p, value, step)

    def placed(self, observation: Array) -> Shaped[Tensor, "n *o"]:
        return torch.from_numpy(observation).to(self.device)

    def asking(self, envs: VectorEnv, generator: torch.Generator | None = None) -> Act | None:
        """The teacher's samples [n, m, d] at observations of these environments."""
        return None if self.teacher is None else partial(self.teacher.samples_at, envs, generator=generator)

    def rollouts(
        self, played: Transitions, log_p: Float[Tensor, "T E"], value: Float[Tensor, "T E"], step: int
    ) -> Rollouts:
        recipe = self.recipe
        ended = (played.terminated | played.truncated).to(self.device)
        A = generalized_advantage(
            played.reward.to(self.device),
            value,
            self.next_values(played, value),
            ended,
            recipe.gamma,
            recipe.gae_lambda,
            finite_horizon=recipe.finite_horizon,
        )
        a = played.action.flatten(0, 1).reshape(-1, self.actor.dims).to(self.device)
        a_T, std_T = (one.to(self.device) for one in moments(played.label, a))
        observation = played.observation.flatten(0, 1).to(self.device)
        R = (A + value).flatten()
        return Rollouts(played, observation, a, log_p.flatten(), A.flatten(), R, a_T, std_T, step)

    def next_values(self, played: Transitions, value: Float[Tensor, "T E"]) -> Float[Tensor, "T E"]:
        """Of what each step came to: the next step's, but where an episode or the batch ends the critic is asked for
        it. 0 behind a termination, unless the recipe would have that counted too."""
        found = torch.cat([value[1:], torch.zeros_like(value[:1])])
        last = played.terminated | played.truncated
        last[-1] = True
        found[last.to(found.device)] = self.actor.value(played.reached[last].to(self.device))
        if self.recipe.bootstrap == "truncation":
            found[played.terminated.to(found.device)] = 0.0
        return found

    def updates(self, batch: Rollouts) -> Iterator[Update]:
        """Passes over the batch in random order, until the policy is further than ``target_kl`` from the old one: each
        update is computed when the one before it is done, and the one that finds it too far is not made."""
        limit = self.recipe.target_kl
        for _ in range(self.recipe.epochs):
            for rows in self.shuffled(len(batch.a)).split(self.recipe.optimization.batch_size):
                outputs = self.outputs(batch, rows)
                moved = approx_kl(self.recipe.log_ratio(outputs).detach())
                if limit is not None and moved > limit:
                    return
                yield Update((POLICY,), partial(self.improve, outputs, moved, batch.step))

    def shuffled(self, n: int) -> Shaped[Tensor, "n"]:
        return torch.randperm(n).to(self.device)

    def outputs(self, batch: Rollouts, rows: Shaped[Tensor, "m"]) -> Outputs:
        mu, value = self.actor(batch.observation[rows])
        known = {name: getattr(batch, name)[rows] for name in ("a", "log_p_old", "A", "R", "a_T", "std_T")}
        return {"mu": mu, "log_std": self.actor.log_std, "V": value, **known}

    def improve(self, outputs: Outputs, moved: float, step: int) -> Numbers:
        loss = self.recipe.loss(POLICY, outputs, step)
        loss.backward()
        return {"loss": loss.item(), "policy/kl": moved, **self.measured(outputs)}

    @torch.no_grad()
    def measured(self, outputs: Outputs) -> dict[str, float]:
        recipe = self.recipe
        beyond = (recipe.log_ratio(outputs).exp() - 1).abs() > recipe.clip_range
        found = {
            "policy/clipped": float(beyond.double().mean()),
            "policy/entropy": float(recipe.policy(outputs).entropy().sum(1).mean()),
        }
        if not outputs["a_T"].isnan().any():
            found["teacher/distance"] = float(recipe.distances(outputs).mean())
        return found

    # --- what is seen ---------------------------------------------------------------------------------------------

    def metrics(self, batch: Rollouts, done: Sequence[Numbers]) -> Mapping[str, float]:
        """``reward/mean`` a step, ``policy/std``, ``updates`` that were made, and λ."""
        return {
            "reward/mean": float(batch.played.reward.mean()),
            "policy/std": float(self.actor.log_std.detach().exp().mean()),
            "updates": len(done),
            "distill_weight": self.recipe.weight(batch.step),
        }

    def spent(self, batch: Rollouts) -> int:
        return batch.played.steps

    def acting(self) -> Act:
        def act(observation: Array) -> Array:
            with torch.no_grad():
                return self.actor.shaped(self.actor(self.placed(observation))[0])

        return act

    def evaluate(self, phase: str) -> Mapping[str, float]:
        found = dict(super().evaluate(phase))
        if phase == "before" and self.teacher is not None:
            found["eval/teacher"] = self.judged(self.taught())["eval/headline"]
        return found

    def taught(self) -> Transitions:
        """Held-out episodes as the teacher plays them."""
        count = self.recipe.eval_episodes
        envs = self.task.make(count)
        ask = self.asking(envs, torch.Generator().manual_seed(self.settings.seed + APART))
        assert ask is not None

        def act(observation: Array) -> Array:
            first: Array = ask(observation)[:, 0]
            return first.reshape(envs.action_space.shape)

        return play(self.task, envs, act, held_out_seeds(count))

    def export(self, folder: Path) -> None:
        write_weights(dict(self.actor.policy.named_parameters()), folder, POLICY)


def moments(
    label: Shaped[Tensor, "T E m d"] | None, a: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Mean and standard deviation of the teacher's samples, which is 0 of one; NaN where nobody was asked."""
    if label is None:
        return torch.full_like(a, torch.nan), torch.full_like(a, torch.nan)
    samples = label.flatten(0, 1).float()
    mean = samples.mean(1)
    return mean, samples.std(1) if samples.shape[1] > 1 else torch.zeros_like(mean)


def approx_kl(log_ratio: Float[Tensor, "n"]) -> float:
    """Mean of ρ − 1 − log ρ, an estimate of KL(π_old ‖ π) in nats that is never below 0."""
    return float((log_ratio.exp() - 1 - log_ratio).mean())
