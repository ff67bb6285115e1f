"""Environments and teachers that tests of acting policies name by FILE.py:NAME."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from selfteach.task.embodied.task import EmbodiedTask

UNIT = spaces.Box(-1, 1, (2,), np.float32)
LENGTH = 5


class Countdown(VectorEnv):
    """Episodes of ``LENGTH`` steps whose rewards, observations and spaces are what a test says. Odd environments
    terminate, even ones are truncated."""

    def __init__(
        self,
        n: int,
        seen: spaces.Space[Any] = UNIT,
        acts: spaces.Space[Any] = UNIT,
        reward: Callable[[int], float] = float,
    ) -> None:
        self.num_envs, self.reward = n, reward
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = seen, acts
        self.observation_space, self.action_space = batch_space(seen, n), batch_space(acts, n)
        self.taken = np.zeros(n, int)
        self.seeds: list[int] = [0] * n

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.taken[mask] = 0
        self.seeds = list(seed) if seed is not None else self.seeds
        return self.observed(), {}

    def observed(self) -> Any:
        if not isinstance(self.single_observation_space, spaces.Box):
            return self.observation_space.sample()
        shape = self.observation_space.shape
        assert shape is not None
        level = self.taken.reshape(-1, *[1] * (len(shape) - 1))
        return np.broadcast_to(level, shape).astype(self.single_observation_space.dtype)

    def step(self, actions: Any) -> Any:
        self.taken += 1
        over = self.taken >= LENGTH
        odd = np.arange(self.num_envs) % 2 == 1
        reward = np.array([self.reward(int(taken)) for taken in self.taken])
        return self.observed(), reward, over & odd, over & ~odd, {}


def task_of(**spaces_and_reward: Any) -> EmbodiedTask:
    return EmbodiedTask("countdown", lambda n: Countdown(n, **spaces_and_reward), LENGTH)


def countdown() -> EmbodiedTask:
    return task_of()


def images() -> EmbodiedTask:
    return task_of(seen=spaces.Box(0, 255, (40, 36, 3), np.uint8))


def small_images() -> EmbodiedTask:
    return task_of(seen=spaces.Box(0, 255, (20, 36, 3), np.uint8))


def dictionary() -> EmbodiedTask:
    return task_of(seen=spaces.Dict({"a": UNIT}))


def unbounded() -> EmbodiedTask:
    return task_of(acts=spaces.Box(-np.inf, np.inf, (2,), np.float32))


def unbounded_below() -> EmbodiedTask:
    return task_of(acts=spaces.Box(-np.inf, 1, (2,), np.float32))


def broken() -> EmbodiedTask:
    return task_of(reward=lambda taken: float("nan") if taken == 3 else 0.0)


def mute() -> int:
    return 3


# --- teachers -----------------------------------------------------------------------------------------------------


def still(observations: Any) -> Any:
    return np.zeros((len(observations), 2), np.float32)


def infinite(observations: Any) -> Any:
    return np.full((len(observations), 2), np.nan)


def one_too_many(observations: Any) -> Any:
    return np.zeros((len(observations), 3))


def too_far(observations: Any) -> Any:
    return np.full((len(observations), 2), 1.5)


def words(observations: Any) -> Any:
    return ["left"] * len(observations)


def raises(observations: Any) -> Any:
    raise RuntimeError("the server is down")


number = 3


@dataclass(frozen=True)
class SwingUp:
    """Energy shaping for gymnasium's Pendulum (mass and length 1, gravity 10; torque within ±2): pump until there is
    enough energy to stand, then hold by a linear law."""

    gain: float = 2.0

    def __call__(self, observations: Any) -> Any:
        cos, sin, speed = np.asarray(observations, float).T
        angle = np.arctan2(sin, cos)
        missing = 5.0 * (1 - cos) - speed**2 / 6  # energy of standing less the present one
        pump = self.gain * missing * np.where(speed == 0, 1.0, speed)
        hold = -12.0 * angle - 3.0 * speed
        torque = np.where((cos > 0.9) & (np.abs(speed) < 3), hold, pump)
        return np.clip(torque, -2, 2)[:, None]


swing_up = SwingUp()
