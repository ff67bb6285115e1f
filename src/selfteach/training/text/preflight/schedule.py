"""Phases of a recipe that a run is too short to reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfteach.recipes import knobs
from selfteach.training.text.preflight.check import Check

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner


def schedule_check(run: TextLearner) -> Iterator[Check]:
    """A warning that names the knobs of kind "schedule" (``Recipe.sizes``, in steps) that are not below the steps of
    the stage; nothing where there are none."""
    recipe = run.recipe
    steps, values = recipe.optimization.steps, knobs(recipe)
    beyond = [
        f"{name} {values[name]}"
        for name, kind in type(recipe).sizes.items()
        if kind == "schedule" and values[name] and values[name] >= steps
    ]
    if beyond:
        yield Check(
            "schedule",
            True,
            f"{', '.join(beyond)}: not below its {steps} steps, so that what begins or ends then is never reached",
            warns=True,
        )
