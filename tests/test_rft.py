"""RFT: which of one's own answers are imitated, by whom they are written, and at which temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import BASE, POLICY, PREVIOUS, Grade, Snapshot, Trajectory
from selfteach.recipes.rft import RFT
from selfteach.task.example import Example
from selfteach.testing import evaluate


def answer(text: str, right: bool, group: int = 0, origin: str = "student") -> Trajectory:
    return Trajectory.written(
        Example("e", ({"role": "user", "content": "?"},)), [1], [len(text)], text,
        group=group, finished=True, origin=origin, grade=Grade(float(right)),
    )  # fmt: skip


class Written:
    """Tools that give out what is given."""

    def __init__(self, answers: Sequence[Trajectory], quoted: Sequence[Trajectory]) -> None:
        self.answers, self.quoted, self.roles = answers, quoted, list[str]()

    def play(self, prompts: Any, n: int, *, role: str) -> list[Trajectory]:
        self.roles.append(role)
        return list(self.answers)

    def grade(self, answers: Sequence[Trajectory]) -> list[Trajectory]:
        return list(answers)

    def quote(self, prompts: Any, field: str) -> list[Trajectory]:
        return list(self.quoted)


TRIED = [
    answer("a", True),
    answer("b", False),
    answer("a", True),
    answer("cc", True),
    answer("a", True, group=1),
]
QUOTED = [answer("cc", True, origin="data"), answer("d", True, group=1, origin="data")]


@pytest.mark.parametrize(
    ("knobs", "kept"),
    [
        ({"with_reference": False}, ["a0", "cc0", "a1"]),
        ({"with_reference": False, "keep_right": 1}, ["a0", "a1"]),
        ({}, ["cc0", "a0", "d1", "a1"]),
    ],
)
def test_right_answers_of_different_texts_are_kept(knobs: dict[str, Any], kept: list[str]) -> None:
    tools = Written(TRIED, QUOTED)
    found = with_knobs(RFT(), knobs).rollout(tools, [], 0)  # type: ignore[arg-type]
    assert [f"{one.text}{one.group}" for one in found] == kept


def test_the_fine_tuned_model_writes_and_the_given_one_is_trained() -> None:
    paper, online = RFT(), recipe_named("rft", "online")
    assert [*paper.stages] == ["sft", "rft"]
    assert paper.writers["writer"].weights == Snapshot("sft", "end")
    assert paper.trained[POLICY].start == BASE
    assert [*online.stages] == ["rft"]
    assert not online.writers
    assert online.trained[POLICY].start == PREVIOUS
    tools = Written(TRIED, QUOTED)
    for recipe in (paper, online):
        recipe.rollout(tools, [], 0)  # type: ignore[arg-type]
    assert tools.roles == ["writer", "student"]


@pytest.mark.parametrize("stage", ["sft", "rft"])
def test_the_loss_is_the_likelihood_at_temperature_one(stage: str) -> None:
    given = arrays(teachers=("writer",))
    p = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    assert RFT().rollouts.temperature == 0.7
    recipe = RFT().stages[stage]
    batch = {k: v for k, v in given.items() if k != "teacher_logits"} | {"teacher_logits": {}}
    assert evaluate(recipe, batch)["loss"] == pytest.approx(-p[given["mask"]].mean(), rel=1e-12)


def test_fresh_answers_of_a_model_that_begins_anew_are_refused() -> None:
    with pytest.raises(UserError, match="set stored, or restart false"):
        with_knobs(RFT(), {"stored": 0})
