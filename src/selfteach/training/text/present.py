"""Where a run is: what its parts share, and what changes from stage to stage and step to step."""

from __future__ import annotations

from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.recipes.base import Recipe
from selfteach.task.example import Task
from selfteach.training.clock import Clock
from selfteach.training.config import TrainConfig
from selfteach.training.progress import Progress


@dataclass
class Present:
    """``recipe`` is the present stage's, with the knobs as its controllers have set them for the step."""

    config: TrainConfig
    task: Task
    recipe: Recipe
    stage: str
    rank: int
    processes: int
    clock: Clock
    progress: Progress
    step: int = 0

    @property
    def draws(self) -> str:
        """What the random numbers of the step's answers follow from, in every process."""
        return f"{self.config.seed} {self.stage} {self.step}"

    def share(self, prompts: int) -> int:
        """Prompts for each process. UserError if they do not divide evenly."""
        return share(prompts, self.processes)


def share(prompts: int, processes: int) -> int:
    if prompts % processes:
        raise UserError(
            f"prompts {prompts} do not divide over {processes} processes; choose a multiple of {processes}"
        )
    return prompts // processes
