"""A tiny float64 run of a recipe that a test wrote, for the tests of what the house can carry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from runs import TextRun, config_of
from selfteach.recipes.kit import Recipe
from selfteach.training.config import Evaluation
from selfteach.training.text.learner import TextLearner


def run_of_recipe(
    recipe: Recipe, model: str, out: Path, *, problems: int = 0, task: Any = "table", **book: Any
) -> tuple[TextRun, TextLearner]:
    """(the run, its learner) on ``task``, by default the arena world table, evaluated on so many ``problems``."""
    config = config_of(recipe, model, out, **book)
    run = TextRun(replace(config, task=task, evaluation=Evaluation(eval_problems=problems, eval_samples=1)))
    for policy in run.learner.models.policies.values():
        policy.model.double()
    run.enter(0)
    return run, run.learner
