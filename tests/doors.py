"""A tiny float64 run of a recipe that a test wrote, for the tests of what the house can carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selfteach.recipes.base import Recipe
from selfteach.train.config import Bookkeeping, Evaluation, Loading, TrainConfig
from selfteach.train.launch import trainer_of
from selfteach.train.progress import Silent
from selfteach.train.rundir import RunFolder
from selfteach.train.text.learner import TextLearner
from selfteach.train.trainer import Trainer


def run_of_recipe(
    recipe: Recipe, model: str, out: Path, *, folder: RunFolder | None = None, problems: int = 0, **book: Any
) -> tuple[Trainer, TextLearner]:
    """(the run, its learner) on the arena world table, in float64."""
    config = TrainConfig(
        recipe=recipe, recipe_name="test", preset="test", task="table", out=out,
        loading=Loading(model=model, device="cpu"),
        evaluation=Evaluation(eval_problems=problems, eval_samples=1),
        bookkeeping=Bookkeeping(**{"samples_every": 0, "checkpoint_every": 0, **book}),
    )  # fmt: skip
    run = trainer_of(config, folder, Silent())
    learner = run.learner
    assert isinstance(learner, TextLearner)
    for policy in learner.policies.values():
        policy.model.double()
    run.enter(0)
    return run, learner
