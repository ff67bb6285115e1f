"""A policy that is asked for actions and nothing else: an environment's expert, or a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from selfteach.checks import require
from selfteach.importing import is_reference, load_object, users_call
from selfteach.task.embodied.task import Array, EmbodiedTask

EXPERT = "expert"
TOLERANCE = 1e-5
"""Beyond the bounds, of rounding."""


class ActionTeacher:
    """``name``: "expert", the task's own, or FILE.py:NAME of a function that gives actions [n, …] for observations
    [n, …]. It is made worse by a ``bias`` on every dimension of its actions and by Gaussian ``noise`` of this standard
    deviation, and then keeps to the bounds. UserError where there is no such teacher, and where an action of its own
    is of another shape, not finite, or out of the environment's bounds.
    """

    def __init__(
        self, task: EmbodiedTask, name: str, *, samples: int = 1, bias: float = 0.0, noise: float = 0.0
    ) -> None:
        self.task, self.name = task, name
        self.samples, self.bias, self.noise = samples, bias, noise
        self.asked = self.expert() if name == EXPERT else self.of_user()

    def expert(self) -> Callable[[VectorEnv, Array], Any]:
        found = self.task.expert
        require(
            found is not None,
            f"environment {self.task.name} has no expert: let teacher be FILE.py:NAME of a function observations → "
            "actions, or distill_weight 0",
        )
        assert found is not None
        return found

    def of_user(self) -> Callable[[VectorEnv, Array], Any]:
        require(
            is_reference(self.name),
            f"teacher {self.name!r} is none: expert, or FILE.py:NAME of a function observations → actions",
        )
        function = load_object(self.name)
        require(callable(function), f"teacher {self.name} is no function but {type(function).__name__}")
        return lambda envs, observations: users_call(f"teacher {self.name}", function, observations)

    def samples_at(
        self, envs: VectorEnv, observations: Array, generator: torch.Generator | None = None
    ) -> Array:
        """[n, …] → [n, m, d] actions, flat; noise is drawn by ``generator`` (None: torch's global one)."""
        space: Any = envs.action_space
        asked = np.stack([self.checked(space, observations, envs) for _ in range(self.samples)], 1)
        if self.bias or self.noise:
            drawn = torch.randn(asked.shape, generator=generator).numpy()
            low, high = (np.expand_dims(bound, 1) for bound in (space.low, space.high))
            asked = np.clip(asked + self.bias + self.noise * drawn, low, high)
        return asked.reshape(*asked.shape[:2], -1).astype(np.float32)

    def checked(self, space: Any, observations: Array, envs: VectorEnv) -> Array:
        given = self.asked(envs, observations)
        try:
            action = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            require(False, f"teacher {self.name} gave no array of numbers but {type(given).__name__}")
        require(
            action.shape == space.shape,
            f"teacher {self.name} gave actions of shape {action.shape}, and the environments want {space.shape}",
        )
        require(bool(np.isfinite(action).all()), f"teacher {self.name} gave an action that is not finite")
        beyond = np.maximum(action - space.high, space.low - action).max()
        require(
            bool(beyond <= TOLERANCE),
            f"teacher {self.name} gave an action {beyond:.3g} out of the environment's bounds: cut it to them, "
            "or bring it to their scale",
        )
        return action
