"""Teachers are scored once a batch: several updates of it do not change what they said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from doors import run_of_recipe
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, Term
from selfteach.recipes.base import Optimization, Recipe, Rollouts
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import EMA, Frozen, Live, Weights


@dataclass(frozen=True)
class Distilled(Recipe):
    title, source, formula = "distilled", "a test", "KL(p‖q)"
    rollouts: Rollouts = Rollouts(max_tokens=6)  # noqa: RUF009
    optimization: Optimization = Optimization(prompts=4, lr=1e-2, update_epochs=2, minibatches=2)  # noqa: RUF009
    whose: Weights = Live()  # noqa: RUF009

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(self.whose, Solution())}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(name="distill", target=FromRole("teacher"), divergence=ReverseKL())


@pytest.mark.parametrize("whose", [Live(), Frozen(), EMA(0.5, from_start=True)], ids=str)
def test_what_a_teacher_said_stays_what_it_was_before_the_first_update(
    whose: Weights, tiny: str, tmp_path: Path
) -> None:
    run, learner = run_of_recipe(Distilled(whose=whose), tiny, tmp_path)
    batch = learner.collect(0)
    before = batch.statistics().log_prob("teacher").clone()
    learner.collect = lambda step: batch  # type: ignore[method-assign]
    run.step()
    after = batch.statistics().log_prob("teacher")
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert len(batch.looked) == 2  # the first epoch's two minibatches
