"""Copies of weights that no later stage names are let go, and a resumed run has those that are left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from doors import run_of_recipe
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.kit import (
    BASE,
    END,
    Optimization,
    Plain,
    Recipe,
    Role,
    Rollouts,
    Snapshot,
    TrainedWeights,
    settings,
)
from selfteach.training import resuming


@settings
class Rounds(Recipe):
    """Stages a-1, b-1, a-2, b-2 …: b-i starts at b-(i-1)'s end, is taught by a-i's end, and so is the stage itself."""

    title, source, formula = "rounds", "a test", "−log π"
    rollouts: Rollouts = Rollouts(max_tokens=5)
    optimization: Optimization = Optimization(prompts=2, steps=1, lr=1e-3)
    rounds: int = 3
    second: bool = True

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Snapshot(f"a-{self.rounds}"), Plain())} if self.second else {}

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        first = BASE if self.rounds == 1 else f"{END}b-{self.rounds - 1}"
        return {
            "policy": TrainedWeights(first if self.second else "previous", self.optimization, self.adapter)
        }

    @property
    def stages(self) -> Mapping[str, Recipe]:
        found: dict[str, Recipe] = {}
        for i in range(1, self.rounds + 1):
            found |= {f"a-{i}": replace(self, rounds=i, second=False), f"b-{i}": replace(self, rounds=i)}
        return {**found, f"b-{self.rounds}": self}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


def test_snapshots_and_starts_are_held_no_longer_than_a_later_stage_names_them(
    tiny: str, tmp_path: Path
) -> None:
    run, learner = run_of_recipe(Rounds(), tiny, tmp_path)
    snapshots, starts, coming = [], [], []
    for stage in range(6):
        if stage:
            run.enter(stage)
        snapshots.append([spec.stage for spec in learner.models.weights.snapshots])
        starts.append(sorted(learner.models.starts.copies["policy"]))
        coming.append(learner.models.weights.copies_to_come)
        run.step()
    assert snapshots == [[], ["a-1"], [], ["a-2"], [], ["a-3"]]
    assert starts == [["base"], [], ["end:b-1"], [], ["end:b-2"], []]
    assert coming == [3, 2, 2, 1, 1, 0]


def test_a_run_goes_on_from_a_checkpoint_whose_early_copies_are_gone(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(Rounds(), tiny, tmp_path)
    for stage in range(3):
        if stage:
            run.enter(stage)
        run.step()
    saved = resuming.state(run)
    torch.manual_seed(5)
    run.enter(3)
    run.step()
    expected = {name: p.detach().clone() for name, p in learner.policy.trainable().items()}
    again, other = run_of_recipe(Rounds(), tiny, tmp_path)
    resuming.load_state(again, saved)
    torch.manual_seed(5)
    again.enter(3)
    again.step()
    for name, p in other.policy.trainable().items():
        assert torch.equal(p, expected[name]), name
