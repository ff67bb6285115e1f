"""Door: a hook that snapshots, extrapolates, validates, restores (card 39); stages that repeat and reset (card 42)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from doors import run_of_recipe
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.kit import BASE, Optimization, Recipe, Rollouts, TrainedWeights
from selfteach.training import resuming


@dataclass(frozen=True)
class Leap:
    """After steps 1, 2, 4 …: once further along (now − anchor), kept if ``better`` or if validation says so."""

    better: bool | None = None
    problems: int = 2

    def start(self, seed: int, weights: Mapping[str, Tensor]) -> Leaping:
        return Leaping(self.better, {name: w.detach().clone() for name, w in weights.items()})


class Leaping:
    def __init__(self, better: bool | None, anchor: dict[str, Tensor]) -> None:
        self.better, self.anchor, self.leaps = better, anchor, 0

    @torch.no_grad()
    def after_step(self, step: int, weights: Mapping[str, Tensor], evaluate: Callable[[], float]) -> None:
        now, before = {name: w.clone() for name, w in weights.items()}, evaluate()
        if step & (step - 1) == 0:
            for name, w in weights.items():
                w.copy_(now[name] + 2 * (now[name] - self.anchor[name]))
            after = evaluate()
            keep = after > before if self.better is None else self.better
            self.leaps += keep
            if not keep:
                for name, w in weights.items():
                    w.copy_(now[name])
        self.anchor = {name: w.clone() for name, w in weights.items()}

    def metrics(self) -> Mapping[str, float]:
        return {"leaps": self.leaps}

    def state(self) -> dict[str, Any]:
        return {"anchor": self.anchor, "leaps": self.leaps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.anchor, self.leaps = dict(state["anchor"]), state["leaps"]


@dataclass(frozen=True)
class Rounds(Recipe):
    title, source, formula = "rounds", "a test", "−log π"
    rollouts: Rollouts = Rollouts(max_tokens=5)
    optimization: Optimization = Optimization(prompts=2, steps=2, lr=1e-3)
    leap: Leap | None = None
    start: str = "previous"
    rounds: int = 1

    @property
    def hook(self) -> Leap | None:
        return self.leap

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        return {"policy": TrainedWeights(self.start, self.optimization, self.adapter)}

    @property
    def stages(self) -> Mapping[str, Recipe]:
        again = {
            f"round-{i}": replace(self, rounds=1, start=BASE if i == 1 else "end:round-0") for i in (1, 2)
        }
        return {"round-0": replace(self, rounds=1), **again} if self.rounds > 1 else {"train": self}

    @property
    def store(self) -> str | None:
        return "shared"

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")


def weights(learner: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.policy.trainable().items()}


@pytest.mark.parametrize("better", [True, False])
def test_a_hook_extrapolates_and_restores_and_its_memory_is_checkpointed(
    better: bool, tiny: str, tmp_path: Path
) -> None:
    run, learner = run_of_recipe(Rounds(leap=Leap(better)), tiny, tmp_path)
    for _ in range(2):
        before, saved = weights(learner), deepcopy(resuming.state(run))
        learner.hook = None
        run.step()
        after = weights(learner)
        resuming.load_state(run, saved)
        run.step()
        for name, w in after.items():
            expected = w + 2 * (w - before[name]) if better else w
            assert torch.equal(weights(learner)[name], expected), name
    ends = weights(learner)
    resuming.load_state(run, saved)
    run.step()
    for name, w in weights(learner).items():
        assert torch.equal(w, ends[name]), name


def test_stages_repeat_share_a_store_and_start_at_the_base_or_at_an_earlier_end(
    tiny: str, tmp_path: Path
) -> None:
    stored = Rollouts(max_tokens=5, stored=2)
    run, learner = run_of_recipe(Rounds(rounds=3, rollouts=stored), tiny, tmp_path)
    base, starts, ends = weights(learner), [], []
    for stage in range(3):
        if stage:
            run.enter(stage)
        starts.append(weights(learner))
        run.step()
        ends.append(weights(learner))
    assert len(learner.writing.store("shared").trajectories) == 2
    assert run.spent == sum(len(one.ids) for one in learner.writing.store("shared").trajectories)
    for name, w in base.items():
        assert torch.equal(starts[1][name], w)
        assert torch.equal(starts[2][name], ends[0][name])
    assert any(not torch.equal(ends[0][name], w) for name, w in base.items())
