"""Episodes of an environment's scripted expert, which policies are cloned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfteach.errors import UserError
from selfteach.task.embodied.task import Array, EmbodiedTask, Expert
from selfteach.training.embodied.rollout import Transitions, play


def expert_to_clone(task: EmbodiedTask) -> Expert:
    """UserError where the environment has none."""
    if task.expert is None:
        raise UserError(
            f"environment {task.name} has no expert to clone: take point-reach, babyai:LEVEL, or a FILE.py:NAME whose "
            "EmbodiedTask has one"
        )
    return task.expert


def expert_plays(task: EmbodiedTask, seeds: Sequence[int], noise: float = 0.0) -> Transitions:
    """Episodes of the expert, whose actions are the labels; a share ``noise`` of those that are taken is drawn from the
    space of actions instead, by a generator that the first seed gives. UserError where there is no expert."""
    expert, envs, generator = expert_to_clone(task), task.make(len(seeds)), np.random.default_rng(seeds[0])
    envs.action_space.seed(seeds[0])
    asked: list[Array] = []

    def ask(observations: Array) -> Array:
        asked.append(expert(envs, observations))
        return asked[-1]

    def act(observations: Array) -> Array:
        strayed = generator.random(len(seeds)) < noise
        drawn: Array = envs.action_space.sample()
        return np.where(strayed.reshape(-1, *[1] * (drawn.ndim - 1)), drawn, asked[-1])

    return play(task, envs, act, seeds, ask=ask)
