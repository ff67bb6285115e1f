"""Gymnasium's FrozenLake in words: four by four fields, a hole ends the walk, the goal is worth 1.

selfteach train grpo --task examples/frozen_lake.py:make --model MODEL --max-turns 12 --max-tokens 8
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from selfteach.task.gymnasium_task import GymnasiumTask

ACTIONS = {"left": 0, "down": 1, "right": 2, "up": 3}
RULES = (
    "You walk over a frozen lake of 4 by 4 fields to the goal. S is the start, F is ice, H is a hole that ends the "
    "walk, G is the goal. Answer with one word: left, down, right or up."
)


class Lake(gymnasium.Wrapper):  # type: ignore[type-arg]
    """A lake of its own for each seed, which does not make one slip."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("FrozenLake-v1", is_slippery=False))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.rows = generate_random_map(size=4, seed=seed)
        self.env = gymnasium.make("FrozenLake-v1", desc=self.rows, is_slippery=False)
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "rows": self.rows}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "rows": self.rows}


def describe(field: Any, info: Mapping[str, Any]) -> str:
    row, column = divmod(int(field), 4)
    return "\n".join([*info["rows"], f"You stand in row {row + 1}, column {column + 1}."])


def shortest(lake: Lake) -> list[str]:
    """A shortest way to the goal, breadth first."""
    moves = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
    ways: dict[tuple[int, int], list[str]] = {(0, 0): []}
    waiting = deque([(0, 0)])
    while waiting:
        row, column = at = waiting.popleft()
        if lake.rows[row][column] == "G":
            return ways[at]
        for word, (down, right) in moves.items():
            there = row + down, column + right
            inside = min(there) >= 0 and max(there) <= 3
            if inside and there not in ways and lake.rows[there[0]][there[1]] != "H":
                ways[there] = [*ways[at], word]
                waiting.append(there)
    raise ValueError(f"there is no way over {lake.rows}")


def make(seed: int = 0) -> GymnasiumTask:
    return GymnasiumTask(
        Lake,
        ACTIONS,
        name="frozen-lake",
        describe=describe,
        instructions=RULES,
        expert=shortest,
        max_turns=16,
        seed=seed,
    )
