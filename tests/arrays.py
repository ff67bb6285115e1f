"""Random batches for recipes: what ``selfteach.testing.evaluate`` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from selfteach.recipes import RECIPES, Recipe
from selfteach.studies.laptop import preset_named

ROWS, STEPS, VOCABULARY = 6, 9, 13
LENGTHS = np.array([9, 4, 7, 1, 6, 3])
MARKS = ("key", "error", "revision")
NUMBERS = {name: kind for one in RECIPES.values() for name, kind in one.numbers.items()}
"""What some recipe's rollout writes down for its terms: a number a row, or one a token."""


def arrays(seed: int = 0, teachers: tuple[str, ...] = ("teacher",)) -> dict[str, Any]:
    """A float64 batch of six rollouts in two groups, with every column a recipe may read."""
    rng = np.random.default_rng(seed)
    shapes = {"row": (ROWS,), "token": (ROWS, STEPS)}
    written = {
        name: 4 * np.random.default_rng([seed, *name.encode()]).random(shapes[kind])
        for name, kind in NUMBERS.items()
    }
    return {
        "numbers": written,
        "ids": rng.integers(VOCABULARY, size=(ROWS, STEPS)),
        "mask": np.arange(STEPS) < LENGTHS[:, None],
        "student_logits": rng.normal(size=(ROWS, STEPS, VOCABULARY)),
        "teacher_logits": {name: rng.normal(size=(ROWS, STEPS, VOCABULARY)) for name in teachers},
        "behavior": -rng.random((ROWS, STEPS)),
        "student_hidden": np.random.default_rng([seed, 5]).normal(size=(ROWS, STEPS, 4)),
        "teacher_hidden": {
            name: np.random.default_rng([seed, 6, *name.encode()]).normal(size=(ROWS, STEPS, 4))
            for name in teachers
        },
        "group": np.array([0, 0, 0, 1, 1, 1]),
        "reward": np.array([1.0, 0, 0, 1, 1, 0]),
        "origin": np.array(["student", "teacher", "student", "teacher", "student", "teacher"]),
        "marks": {name: rng.random((ROWS, STEPS)) < 0.5 for name in MARKS}
        | {
            "mismatched": np.repeat(
                np.array([[False], [False], [True], [False], [True], [False]]), STEPS, axis=1
            ),
            "completed": (np.arange(STEPS) >= 1) & np.isin(np.arange(ROWS), [0, 2, 4, 5])[:, None],
        },
        "pair": np.array([1, -1, -1, 5, -1, -1]),
        "turn": np.tile(np.arange(STEPS) // 3, (ROWS, 1)),
    }


def laptop(name: str) -> Recipe:
    """The recipe of this name at preset "arena"."""
    return preset_named(RECIPES[name], "arena")[1]


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = logits / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def mean_of_sequences(per_token: np.ndarray, mask: np.ndarray) -> float:
    return float(((per_token * mask).sum(1) / mask.sum(1)).mean())


Place = tuple[int, ...]


def slopes(
    logits: np.ndarray, loss: Callable[[np.ndarray], float], places: Iterable[Place] | None = None
) -> Iterator[tuple[Place, float]]:
    """The loss's slope by central differences (step 1e-6) at some places of the logits (None: ten random ones)."""
    rng = np.random.default_rng(1)
    for place in places or [tuple(int(rng.integers(n)) for n in logits.shape) for _ in range(10)]:
        losses = []
        for shift in (1e-6, -1e-6):
            moved = logits.copy()
            moved[place] += shift
            losses.append(loss(moved))
        yield place, (losses[0] - losses[1]) / 2e-6
