"""A change of the house is no change of a loss: every recipe against values recorded before it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden
from selfteach.recipes import RECIPES, Recipe, with_knobs
from selfteach.studies.laptop import presets

RECORDED = golden.recorded_evaluations()
CLOSE = 1e-9


@pytest.mark.parametrize(
    ("label", "recipe", "step"),
    list(golden.cases()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_evaluate_gives_the_recorded_loss_and_gradient(label: str, recipe: Recipe, step: int) -> None:
    was, now = RECORDED[label], golden.evaluated(recipe, step)
    assert set(was) == set(now)
    for part, value in was.items():
        np.testing.assert_allclose(
            now[part], value, rtol=CLOSE, atol=CLOSE * np.abs(value).max(), err_msg=part
        )


def test_every_recipe_has_a_recorded_run() -> None:
    missing = set(RECIPES) - {path.stem for path in (golden.HOME / "runs").glob("*.json")}
    assert not missing, f"record these once: python tests/golden.py {' '.join(sorted(missing))}"
    assert {path.stem for path in (golden.HOME / "runs").glob("*.json")} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_replayed_run_gives_the_recorded_losses_and_gradients(name: str, tmp_path: Path) -> None:
    recorded = golden.recorded_run(name)
    recipe = with_knobs(presets(RECIPES[name])[recorded["preset"]], tuples(recorded["knobs"]))
    now = list(golden.steps_of(name, tmp_path, recorded["steps"], recipe))
    assert len(now) == len(recorded["steps"])
    assert_replayed(recorded, now)


# Every method is replayed by default; that micro-batches change nothing is the work of the core: three show it.
EVERY_KIND = ("opsd", "sdpo", "sd-zero")


@pytest.mark.parametrize(
    "name", [name if name in EVERY_KIND else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_micro_batches_of_any_size_give_the_recorded_losses_and_gradients(name: str, tmp_path: Path) -> None:
    """What a role of signal "sampled" gave is scored anew, in micro-batches too."""
    recorded = golden.recorded_run(name)
    recipe = with_knobs(presets(RECIPES[name])[recorded["preset"]], tuples(recorded["knobs"]))
    unscored = [
        {**step, "rollouts": [{**row, "log_probs": {}} for row in step["rollouts"]]}
        for step in recorded["steps"]
    ]
    count = None if len(recipe.stages) > 1 else len(SIZES)
    now = golden.steps_of(name, tmp_path, unscored, recipe, SIZES)
    assert_replayed(recorded, list(islice(now, count)))


SIZES = (1, 3, 2, 5)
"""Rows of a micro-batch, step by step, of the 4 or 8 of a batch."""


def assert_replayed(recorded: dict[str, Any], now: list[dict[str, Any]]) -> None:
    """These steps gave what the first so many recorded ones did; a gradient whose parts cancel, to their rounding."""
    usual = max(step["gradient"]["norm"] for step in recorded["steps"])
    for was, one in zip(recorded["steps"], now, strict=False):
        assert one["stage"] == was["stage"]
        assert one["loss"] == pytest.approx(was["loss"], rel=CLOSE, abs=CLOSE)
        assert one["terms"] == pytest.approx(was["terms"], rel=CLOSE, abs=CLOSE)
        norm = was["gradient"]["norm"]
        assert one["gradient"]["norm"] == pytest.approx(norm, rel=CLOSE)
        assert one["gradient"]["along"] == pytest.approx(
            was["gradient"]["along"], abs=CLOSE * max(norm, 1e-6 * usual)
        )


def tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
