"""How often the student reads a row in an update: once, unless a statistic of it needs graphs beyond the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import golden
from runs import run_of
from selfteach.policy.loading import body
from selfteach.recipes import RECIPES, Recipe, with_knobs
from selfteach.studies.laptop import presets
from selfteach.training.launch import settings_of
from selfteach.training.progress import Silent
from selfteach.training.trainer import Trainer

SEQUENCE = {"loss": "sequence", "alpha": 1.0, "student_top_k": None}
ROW_BY_ROW = (
    "scope", "sdpo-sequence", "tip", "uni-opd", "tsd-kd", "user-interactions", "omniopd", "dpo", "kto", "soda",
    "minillm", "distillm2", "sod", "tcod", "genevolve",
)  # fmt: skip
"""They read the student's log-probs or entropies of whole rollouts before they know a token's weight."""
UNDER_TWO_PROMPTS = ("pi-distill", "vpd")
ON_ONE_BASE = ("sleep",)
CASES = (*(name for name in RECIPES if name not in UNDER_TWO_PROMPTS + ON_ONE_BASE), "sdpo-sequence")
"""But for the methods that train the same weights under two prompts (``test_trained_roles.py`` has their updates), and
whose teacher is another adapter on the student's base, which is counted too."""

SOME = (*ROW_BY_ROW, "opsd", "grpo", "gkd", "sdpo", "avsd", "cepo", "sd-zero", "rltf")
"""Those that read whole rollouts, and some of the others, which are alike."""
SOME_KEPT = {"sod": 300, "tcod": 30}
"""Tokens with which some rows are kept and some not; of the other cases' rows 100."""


class Counting(golden.Watched):
    """Replays recorded rollouts, and counts the rows that the student's transformer reads in each update."""

    def backward(self, batch: Any, update: Any, several: bool) -> Any:
        self.read, self.rows = 0, len(batch.rows)
        student = self.models.weights.policy_of(self.recipe.student.weights)
        handle = body(student.model).register_forward_pre_hook(self.count, with_kwargs=True)
        try:
            return super().backward(batch, update, several)
        finally:
            handle.remove()

    def count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.read += len(kwargs["input_ids"])


def recipe_of(case: str) -> tuple[str, Recipe, list[dict[str, Any]]]:
    name = case.removesuffix("-sequence")
    recorded = golden.recorded_run(name)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded["knobs"].items()}
    recipe = with_knobs(presets(RECIPES[name])[recorded["preset"]], values)
    return name, with_knobs(recipe, SEQUENCE) if name != case else recipe, recorded["steps"]


def readings(
    case: str, folder: Path, micro_batch: int | None, tokens: int | None
) -> tuple[list[float], dict[str, Any]]:
    """(How often the student read a row, in one step of each stage; the last gradient). ``tokens``: so many may be kept
    for a gradient at once (None: as many as the machine's memory holds)."""
    name, recipe, steps = recipe_of(case)
    first = [next(i for i, step in enumerate(steps) if step["stage"] == stage) for stage in recipe.stages]
    learner = Counting(name, recipe, folder, [steps[i] for i in first])
    if tokens is not None:
        for policy in learner.models.policies.values():
            policy.room.memory = tokens * policy.room.needs.trained
    run, found = Trainer(learner, None, Silent(), settings_of(learner.config)), []
    for stage in range(len(first)):
        run.enter(stage)
        learner.cut(micro_batch)
        run.step()
        learner.done += 1
        found.append(learner.read / learner.rows)
    return found, learner.gradient


@pytest.mark.parametrize("case", CASES)
def test_with_one_micro_batch_the_student_reads_each_row_once(case: str, tmp_path: Path) -> None:
    assert set(readings(case, tmp_path, None, None)[0]) == {1.0}


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_weights_that_are_trained_under_two_prompts_read_each_row_under_both(
    micro_batch: int | None, tmp_path: Path
) -> None:
    assert readings("pi-distill", tmp_path, micro_batch, None)[0] == [2.0]


@pytest.mark.parametrize("case", ON_ONE_BASE)
def test_a_base_with_two_adapters_reads_each_row_once_with_either(case: str, tmp_path: Path) -> None:
    assert readings(case, tmp_path, None, None)[0] == [1.0, 2.0]


@pytest.mark.parametrize("case", SOME)
def test_with_several_the_graphs_are_kept_where_they_fit(case: str, tmp_path: Path) -> None:
    assert set(readings(case, tmp_path, 1, None)[0]) == {1.0}


@pytest.mark.parametrize("case", SOME)
def test_beyond_the_memory_only_statistics_of_whole_rollouts_cost_a_second_reading(
    case: str, tmp_path: Path
) -> None:
    found, _ = readings(case, tmp_path, 1, 1)
    assert found[-1] == (2.0 if case in ROW_BY_ROW else 1.0)


@pytest.mark.parametrize("case", ROW_BY_ROW)
def test_what_is_kept_changes_no_gradient(case: str, tmp_path: Path) -> None:
    (all_kept, gradient), (some, partly), (none, anew) = (
        readings(case, tmp_path / str(tokens), 1, tokens) for tokens in (None, SOME_KEPT.get(case, 100), 1)
    )
    assert all_kept[-1] == 1.0 < some[-1] < 2.0 == none[-1]
    assert gradient == partly == anew


def test_what_was_before_the_first_of_several_updates_is_read_with_its_gradient(tiny: str) -> None:
    run = run_of(tiny, "--update-epochs", "3", "--micro-batch", "1")
    run.enter(0)
    batch, read = run.learner.collect(0), list[int]()
    body(run.learner.policy.model).register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    for update in run.learner.updates(batch):
        run.update(update, batch)
    assert sum(read) == 3 * len(batch.rows)
    assert not batch.scoring.kept
