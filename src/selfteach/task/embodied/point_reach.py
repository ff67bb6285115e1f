"""A point in the plane that is to reach a goal behind a disc: small, exact, and all episodes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from selfteach.task.embodied.task import Array, EmbodiedTask, Infos

STEP = 0.12
"""How far an action of length 1 moves."""
RADIUS = 0.35
"""Of the disc around the origin, which cannot be entered."""
CLEAR = 0.2
"""How far from the disc the expert passes."""
NEAR = 0.12
"""The goal is reached within this."""
JUMPS = 0.3
"""A goal that jumps does so when the point is first above this height."""
MAX_STEPS = 50
SIDES = (-1.0, 1.0)


@dataclass(frozen=True)
class Variant:
    """``dense``: the reward adds what every step came nearer. ``two_ways``: the expert passes on a side that is drawn
    anew each episode, else on the one that the point started on. ``jump``: once an episode, above height ``JUMPS``, the
    goal goes to the other side, as far as 0.4 … 0.9 from the middle. ``slide``: a step into the disc ends on its rim,
    else it is not taken. ``back``: the point starts above, and the goal lies below."""

    dense: bool = False
    two_ways: bool = False
    jump: bool = False
    slide: bool = False
    back: bool = False


class PointReach(VectorEnv):
    """Observation: place and goal, [4] in [−1, 1]; action: velocity, [2] in [−1, 1], of which a step is ``STEP``. The
    point starts below the disc, the goal lies above it. The reward is 1 where the goal is reached, which ends the
    episode, and 0 elsewhere. ``side`` [n], −1 or 1: where the expert passes the disc.
    """

    def __init__(self, num_envs: int, variant: Variant = Variant()) -> None:
        self.num_envs, self.variant = num_envs, variant
        self.up = -1.0 if variant.back else 1.0
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(-1, 1, (4,), np.float32)
        self.single_action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.place, self.goal = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self.side, self.taken = np.ones(num_envs), np.zeros(num_envs, int)
        self.jumps = np.zeros(num_envs)  # where each goal goes; 0: it stays
        self.generators = [np.random.default_rng(i) for i in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            if seeds is not None and seeds[i] is not None:
                self.generators[i] = np.random.default_rng(seeds[i])
            start, goal, side = self.generators[i].uniform(-1, 1, 3)
            self.place[i], self.goal[i] = (0.4 * start, -0.8 * self.up), (0.4 * goal, 0.8 * self.up)
            self.side[i] = np.sign(side if self.variant.two_ways else start)
            self.taken[i] = 0
            if self.variant.jump:
                self.jumps[i] = -np.sign(goal) * self.generators[i].uniform(0.4, 0.9)
        return self.observed(), {}

    def observed(self) -> Array:
        return np.concatenate([self.place, self.goal], 1).astype(np.float32)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        before = self.distance()
        wanted = np.clip(self.place + STEP * np.clip(actions, -1, 1), -1, 1)
        far = np.linalg.norm(wanted, axis=1, keepdims=True)
        rim = wanted / np.maximum(far, 1e-9) * RADIUS * (1 + 1e-6)
        self.place = np.where(far > RADIUS, wanted, rim if self.variant.slide else self.place)
        self.taken += 1
        moves = (self.jumps != 0) & (self.up * self.place[:, 1] > JUMPS)
        self.goal[moves, 0], self.jumps[moves] = self.jumps[moves], 0
        reached = self.distance() < NEAR
        reward = reached + (before - self.distance() if self.variant.dense else 0.0)
        truncated = (self.taken >= MAX_STEPS) & ~reached
        return self.observed(), reward, reached, truncated, {"success": reached}

    def distance(self) -> Array:
        found: Array = np.linalg.norm(self.place - self.goal, axis=1)
        return found


def passing(place: Array, goal: Array, side: Array) -> Array:
    """[n, 2] the expert's actions: before the disc towards a point beside it, behind it towards the goal; full speed
    but for the last step."""
    beside = np.stack([side * (RADIUS + CLEAR), np.zeros_like(side)], 1)
    before = np.sign(goal[:, 1]) * place[:, 1] < -0.02
    to = np.where(before[:, None], beside, goal)
    way = (to - place) / STEP
    length = np.linalg.norm(way, axis=1, keepdims=True)
    found: Array = (way / np.maximum(length, 1)).astype(np.float32)
    return found


def expert(envs: VectorEnv, observations: Array) -> Array:
    side = envs.unwrapped.side  # type: ignore[attr-defined]
    return passing(observations[:, :2], observations[:, 2:], side)


def side_taken(observations: Array, actions: Array) -> Array:
    """−1 or 1: the side that an action heads for before the disc, where the point is neither; elsewhere 0."""
    before = np.sign(observations[:, 3]) * observations[:, 1] < -0.02
    undecided = before & (np.abs(observations[:, 0]) < RADIUS)
    found: Array = np.where(undecided, np.sign(actions[:, 0]), 0).astype(int)
    return found


def succeeded(infos: Infos, rewards: Array, terminated: Array) -> Array:
    return np.asarray(infos["success"], bool)


def point_reach(name: str, variant: Variant = Variant()) -> EmbodiedTask:
    return EmbodiedTask(
        name,
        lambda n: PointReach(n, variant),
        MAX_STEPS,
        success=succeeded,
        expert=expert,
        places=lambda observations: observations[:, :2],
        way=side_taken,
    )
