"""What learners of acting policies have in common: environments, held-out episodes, and pictures of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.embodied import EmbodiedRecipe
from selfteach.task.embodied.named import task_named
from selfteach.task.embodied.task import Array
from selfteach.training.embodied.rollout import Act, Transitions, held_out_seeds, play
from selfteach.training.learner import Sample
from selfteach.training.network_learner import NetworkLearner
from selfteach.training.pictures import SHADE, side_by_side
from selfteach.training.trainer import Settings

E = TypeVar("E", bound=EmbodiedRecipe)
PATHS = 20
"""Episodes whose paths are shown."""
APART = 1_000_003
"""The noise of evaluations, where there is any, is drawn by the run's seed plus this."""
FILMED, FRAMES = 4, 12
"""Episodes that are shown frame by frame, and the most frames of one."""


class EmbodiedLearner(NetworkLearner[E], ABC, Generic[E]):
    """A policy that acts in the recipe's environment. What is seen of it are its greedy actions (``acting``)."""

    unit = "environment steps"
    headline = "success rate of held-out episodes (mean return, where an environment tells no success)"

    def __init__(self, recipe: E, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.task = task_named(recipe.environment)

    @abstractmethod
    def acting(self) -> Act:
        """What the trained policy does when it is evaluated: a function of observations, the same whenever it is asked,
        or one that begins anew with every call of this method."""

    def spent(self, batch: Any) -> int:
        played: Transitions = batch
        return played.steps

    # --- what is seen ---------------------------------------------------------------------------------------------

    def evaluated(self, act: Act, count: int | None = None) -> Transitions:
        """Held-out episodes as ``act`` plays them, all at once. Moves no random state."""
        count = count or self.recipe.eval_episodes
        return play(self.task, self.task.make(count), act, held_out_seeds(count))

    def evaluate(self, phase: str) -> Mapping[str, float]:
        return self.judged(self.evaluated(self.acting()))

    def judged(self, played: Transitions) -> dict[str, float]:
        """``eval/return`` and ``eval/length`` (steps), means over episodes; ``eval/success`` where the environment
        tells, which then is the headline; its standard error."""
        judged = played.earned(self.task).double()
        found = {
            "eval/headline": float(judged.mean()),
            "eval/headline_se": float(judged.std() / len(judged) ** 0.5) if len(judged) > 1 else 0.0,
            "eval/return": float(played.returns.double().mean()),
            "eval/length": float(played.alive.sum(0).double().mean()),
        }
        if self.task.success is not None:
            found["eval/success"] = float(judged.mean())
        return found

    def samples(self, batch: Any, phase: str) -> list[Sample]:
        """Before and after training: paths in the plane, or episodes frame by frame, as the task can show them."""
        if phase == "train":
            return []
        if self.task.places is not None:
            return [Sample("points", {"points": self.paths(self.acting())}, "paths")]
        return self.films() if self.task.pictures is not None else []

    def paths(self, act: Act) -> dict[str, list[list[float]]]:
        """Places of some episodes as ``act`` plays them, by whether they succeeded."""
        played = self.evaluated(act, PATHS)
        assert self.task.places is not None
        where = torch.from_numpy(self.task.places(played.observation.flatten(0, 1).numpy()))
        where = where.unflatten(0, played.alive.shape)
        good = played.succeeded
        clouds = {
            "succeeded": where[:, good][played.alive[:, good]],
            "failed": where[:, ~good][played.alive[:, ~good]],
        }
        return {name: one.tolist() for name, one in clouds.items() if len(one)}

    def films(self) -> list[Sample]:
        """Rows of frames, a row an episode."""
        envs, frames = self.task.make(FILMED), list[Float[Tensor, "n c h w"]]()

        def look() -> None:
            assert self.task.pictures is not None
            frames.append(torch.stack([as_image(one) for one in self.task.pictures(envs)]))

        played = play(self.task, envs, self.acting(), held_out_seeds(FILMED), steps=FRAMES, look=look)
        whole = torch.stack(frames)
        whole[~played.alive] = SHADE  # what rests
        rows = whole.transpose(0, 1).flatten(0, 1)
        caption = f"the first {len(frames)} steps, a row an episode"
        return [
            Sample(
                "image", {"pixels": side_by_side(rows, columns=len(frames)), "caption": caption}, "episodes"
            )
        ]


def as_image(picture: Array) -> Float[Tensor, "c h w"]:
    return torch.from_numpy(picture).float().permute(2, 0, 1) / 255
