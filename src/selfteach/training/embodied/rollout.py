"""Acting in parallel environments, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from selfteach.checks import require
from selfteach.task.embodied.task import Array, EmbodiedTask

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Act = Callable[[Array], Array]
"""Observations [n, …] → actions [n, …]. One that remembers has a method ``begin`` beside it (``begun``)."""
TRAINING = 1 << 20
"""Episodes are numbered by their seeds: held-out ones from 0, those that are trained on from here."""


class Transitions(NamedTuple):
    """T steps of E environments. Where ``alive`` is false the episode was over, and nothing else there says anything.
    ``reached`` is what the step came to, before any next episode began; ``label`` is what was said at ``observation``
    (an expert's action, or several samples of it; None: nobody was asked)."""

    observation: Shaped[Tensor, "T E *o"]
    action: Shaped[Tensor, "T E *a"]
    label: Shaped[Tensor, "T E *l"] | None
    reward: Float[Tensor, "T E"]
    reached: Shaped[Tensor, "T E *o"]
    terminated: Bool[Tensor, "T E"]
    truncated: Bool[Tensor, "T E"]
    success: Bool[Tensor, "T E"]
    alive: Bool[Tensor, "T E"]

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return int(self.alive.sum())

    def kept(self, values: Shaped[Tensor, "T E *x"]) -> Shaped[Tensor, "n *x"]:
        """``values`` of the steps that were taken, step by step."""
        return values[self.alive]

    @property
    def returns(self) -> Float[Tensor, "E"]:
        """Sum of rewards, of one episode an environment."""
        return (self.reward * self.alive).sum(0)

    @property
    def succeeded(self) -> Bool[Tensor, "E"]:
        """Whether an environment's episode ever succeeded."""
        return (self.success & self.alive).any(0)

    def earned(self, task: EmbodiedTask) -> Float[Tensor, "E"]:
        """What counts of an episode: 1 or 0 for success where the task tells it, else the return."""
        return self.returns if task.success is None else self.succeeded.float()


def play(
    task: EmbodiedTask,
    envs: VectorEnv,
    act: Act,
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    continuing: bool = False,
    ask: Act | None = None,
    look: Callable[[], Any] | None = None,
) -> Transitions:
    """Begin an episode of each of ``seeds`` and act for ``steps`` (None: the task's longest). An environment whose
    episode is over rests, or begins another one if ``continuing``; an ``act`` that remembers is told which begin.
    ``ask``: whose actions are the labels; ``look`` is called before every step. UserError where an action or what the
    environment says is not finite."""
    rows: list[tuple[Any, ...]] = []
    observation, _ = envs.reset(seed=list(seeds))  # type: ignore[arg-type]
    alive = np.ones(envs.num_envs, bool)
    begun(act, alive)
    for _ in range(steps or task.max_steps):
        if look is not None:
            look()
        label = None if ask is None else sound(task, "an action of the expert", ask(observation))
        action = sound(task, "an action", act(observation))
        reached, reward, terminated, truncated, infos = envs.step(bounded(envs, action))
        sound(task, "an observation", reached)
        sound(task, "a reward", reward)
        success = np.zeros(len(alive), bool)
        if task.success is not None:
            success = task.success(infos, reward, terminated)
        rows.append(
            (observation, action, label, reward, reached, terminated, truncated, success, alive.copy())
        )
        over = terminated | truncated
        alive = alive & (continuing | ~over)
        if not alive.any():
            break
        observation = reached
        if over.any():  # one that rests is begun anew too, as it must be stepped with the others
            observation, _ = envs.reset(options={"reset_mask": over})
            begun(act, over & alive)
    return Transitions(*(stacked(column) for column in zip(*rows, strict=True)))


def begun(act: Act, mask: Array) -> None:
    """Tell a policy that remembers where, [n], the next observation is the first of an episode: ``act.begin(mask)``."""
    if hasattr(act, "begin"):
        act.begin(mask)


def stacked(column: Sequence[Any]) -> Any:
    """[T, E, …] of each step's arrays; of floats in float32. None where there are none."""
    if column[0] is None:
        return None
    whole = torch.from_numpy(np.stack(column))
    return whole.float() if whole.is_floating_point() else whole


def bounded(envs: VectorEnv, action: Array) -> Array:
    """Within the bounds of a Box; a Gaussian policy knows of none."""
    space: Any = envs.action_space
    return np.clip(action, space.low, space.high) if hasattr(space, "low") else action


def sound(task: EmbodiedTask, what: str, given: Array) -> Array:
    require(bool(np.isfinite(given).all()), f"environment {task.name}: {what} is not finite")
    return given


def held_out_seeds(count: int) -> list[int]:
    return list(range(count))


def training_seeds(count: int) -> list[int]:
    """Drawn by torch's global generator."""
    found: list[int] = (TRAINING + torch.randint(2**31 - TRAINING, (count,))).tolist()
    return found
