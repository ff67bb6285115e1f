"""BabyAI's levels as arrays: what is in sight and the words of the mission, and minigrid's planner as the expert.

Chevalier-Boisvert et al., arXiv 1810.08272. In words the same levels are ``selfteach.task.babyai``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from selfteach.errors import UserError
from selfteach.task.babyai import ACTIONS, COLORS, OBJECTS, level, level_named
from selfteach.task.embodied.task import Array, EmbodiedTask

VERBS = "a the go to pick up open put next on your left right behind in front of you and then after first"
WORDS = (*COLORS, *OBJECTS.values(), "object", *VERBS.split())
"""What BabyAI's missions are said in."""
SIGHT = 7
"""Fields in sight, along either axis."""
KINDS = (11, 6, 4)
"""Of each field: object, color and state, so many of each."""
NUMBERS = SIGHT * SIGHT * len(KINDS)
LONGEST = 24
"""Words of a mission that are shown; behind a shorter one stand zeros."""
WAIT = ACTIONS["done"]
"""Which moves nothing: the expert's where the planner is stuck."""


class Encoded(gymnasium.ObservationWrapper):
    """Observation [``NUMBERS`` + ``LONGEST``]: the fields in sight as minigrid numbers them, and the mission's words,
    1 + their place in ``WORDS``. ``expert_action`` is what minigrid's planner would do now."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (NUMBERS + LONGEST,), np.int64)
        self.planner: Any = None
        self.done_last: Any = None

    def reset(self, **given: Any) -> Any:
        self.planner, self.done_last = None, None
        return super().reset(**given)

    def step(self, action: Any) -> Any:
        self.done_last = int(action)
        return super().step(int(action))

    def observation(self, observation: Any) -> Array:
        words = [WORDS.index(word) + 1 for word in self.told(observation["mission"])]
        mission = np.zeros(LONGEST, np.int64)
        mission[: len(words)] = words
        return np.concatenate([observation["image"].reshape(-1).astype(np.int64), mission])

    def told(self, mission: str) -> list[str]:
        words = mission.replace(",", "").split()
        strange = [word for word in words if word not in WORDS]
        if strange or len(words) > LONGEST:
            raise UserError(
                f"the mission {mission!r:.80} has words that BabyAI's language has not ({strange[:3]}), or more than "
                f"{LONGEST}: take another level"
            )
        return words

    def expert_action(self) -> int:
        """To be asked at every step of an episode from its first, or at none: the planner follows what is done."""
        try:
            if self.planner is None:
                self.planner = import_module("minigrid.utils.baby_ai_bot").BabyAIBot(self.env.unwrapped)
                return int(self.planner.replan())
            return int(self.planner.replan(self.done_last))
        except Exception:  # whatever it raises where it has no plan: a dozen kinds, some its own
            return WAIT


def expert(envs: VectorEnv, observations: Array) -> Array:
    found: Array = np.array(envs.call("expert_action"), np.int64)  # type: ignore[attr-defined]
    return found


def grid_task(name: str, wanted: str) -> EmbodiedTask:
    """A level by its name, without BabyAI- and the version behind it. UserError where there is none, or no minigrid."""
    registered = level_named(wanted)
    return EmbodiedTask(
        name,
        lambda n: SyncVectorEnv([one_of(registered)] * n, autoreset_mode=AutoresetMode.DISABLED),
        max_steps=longest(registered),
        observation="grid",
        success=lambda infos, rewards, terminated: rewards > 0,
        expert=expert,
        pictures=lambda envs: [
            one.unwrapped.get_frame(highlight=True, tile_size=8)
            for one in envs.envs  # type: ignore[attr-defined]
        ],
    )


def one_of(registered: str) -> Callable[[], Any]:
    return lambda: Encoded(level(registered))


def longest(registered: str) -> int:
    """The level's own bound, which it knows once it is drawn."""
    env = level(registered)
    env.reset(seed=0)
    return int(env.unwrapped.max_steps)
