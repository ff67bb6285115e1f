"""What preflight says of terms: of every update of the first step, and of those that select nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.objective.minibatch import Minibatch
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes import RECIPES, knobs, with_knobs
from selfteach.recipes.kit import Optimization, Recipe, Rollouts
from selfteach.studies.laptop import presets
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.objective import objective_check
from selfteach.training.text.preflight.probing import small_recipe
from selfteach.training.text.preflight.schedule import schedule_check


@dataclass(frozen=True)
class Chosen(Recipe):
    """Two updates of one term each, the second on chosen rows alone."""

    title, source, formula = "chosen", "a test", "NLL"
    rollouts: Rollouts = Rollouts(max_tokens=4)  # noqa: RUF009
    optimization: Optimization = Optimization(prompts=4)  # noqa: RUF009
    where: bool = True
    weight: float = 1.0

    def updates(self, step: int) -> Sequence[Minibatch]:
        return (Minibatch(roles=("student",)), Minibatch(epoch=1, roles=()))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if stats.update.roles:
            yield NegativeLogLikelihood(name="all")
        else:
            where = torch.full_like(stats.rows, self.where)
            yield NegativeLogLikelihood(name="some", where=where, weight=self.weight, mean_over="selected")


def check_of(recipe: Recipe, tiny: str, out: Path) -> Check:
    _, learner = run_of_recipe(recipe, tiny, out)
    written, _ = learner.writing.write(4, 0)
    return objective_check(learner, learner.writing.judged(written))


def test_terms_of_every_update_are_looked_at(tiny: str, tmp_path: Path) -> None:
    check = check_of(Chosen(), tiny, tmp_path)
    assert (check.word.strip(), check.detail) == ("ok", "terms all, some")


@pytest.mark.parametrize("recipe", [Chosen(where=False), Chosen(weight=0.0)])
def test_a_term_that_selects_nothing_is_named(recipe: Recipe, tiny: str, tmp_path: Path) -> None:
    check = check_of(recipe, tiny, tmp_path)
    assert check.word == "warn"
    assert "terms all, some; of 4 short rollouts no token is selected by some:" in check.detail


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reopold", {"explore_steps": 3}),
        ("cepo", {"mix_steps": 3}),
        ("opsd", {"warmup": 3}),
    ],
)
def test_a_phase_that_a_run_is_too_short_for_is_named(
    name: str, said: dict[str, int], tiny: str, tmp_path: Path
) -> None:
    recipe = RECIPES[name]
    zero = {n: 0 for n, kind in recipe.sizes.items() if kind == "schedule" and n == "warmup"}
    long = with_knobs(recipe(), {**zero, **said, "steps": 8})
    short = with_knobs(long, {"steps": 3})
    teacher = {"teacher": tiny} if "teacher" in knobs(long) else {}
    found = {
        steps: list(schedule_check(run_of_recipe(with_knobs(one, teacher), tiny, tmp_path / f"{steps}")[1]))
        for steps, one in ((8, long), (3, short))
    }
    assert found[8] == []
    (check,) = found[3]
    assert check.word == "warn"
    assert check.detail.startswith(
        ", ".join(f"{name} {value}" for name, value in said.items()) + ": not below its 3"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_tried_out_small(name: str) -> None:
    """Its own rules hold, whatever is compared with the answers of a prompt."""
    for recipe in presets(RECIPES[name]).values():
        small = knobs(small_recipe(recipe))
        assert small["per_prompt"] <= 2
        assert small["max_tokens"] <= 48


def test_what_is_counted_by_the_prompt_is_made_small_with_it() -> None:
    small = knobs(small_recipe(with_knobs(RECIPES["kepo"](), {"per_prompt": 8, "hinted": 6})))
    assert (small["per_prompt"], small["hinted"], small["attempts"], small["hint_tokens"]) == (2, 2, 1, 48)
    assert knobs(small_recipe(with_knobs(RECIPES["kepo"](), {"hinted": 0})))["hinted"] == 0
