"""DPO as a recipe: pairs of the data and of a group, what is added to it and refused, what its rollouts are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.dpo import DPO
from selfteach.recipes.kit import Trajectory, preferred
from selfteach.task.example import Example
from selfteach.testing import evaluate

DATA, GROUPS = ((0, 1), (3, 5)), ((0, 1), (3, 5))
"""The pairs that ``arrays()`` names, and those of its rewards (rows 0, 3 and 4 are right)."""


def taken(given: dict[str, Any], logits: np.ndarray) -> np.ndarray:
    found = np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]
    return np.where(given["mask"], found, 0.0)


def margins(given: dict[str, Any], pairs: Any = DATA) -> np.ndarray:
    gap = (taken(given, given["student_logits"]) - taken(given, given["teacher_logits"]["reference"])).sum(1)
    return np.array([gap[w] - gap[lo] for w, lo in pairs])


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_loss_is_equation_7(beta: float) -> None:
    given = arrays(teachers=("reference",))
    out = evaluate("dpo", given, overrides={"beta": beta})
    assert out["loss"] == pytest.approx(np.log1p(np.exp(-beta * margins(given))).mean(), rel=1e-12)
    assert out["metrics"]["rewards/margins"] == pytest.approx(beta * margins(given).mean(), rel=1e-12)


def test_pairs_of_rollouts_go_by_the_reward_and_those_of_data_do_not() -> None:
    given = arrays(teachers=("reference",))
    turned = {**given, "reward": np.array([0.0, 1, 0, 0, 0, 1])}
    data, rollouts = ({"pairs": one} for one in ("data", "rollouts"))
    knobs = {"per_prompt": 8}
    assert evaluate("dpo", turned, overrides=data)["loss"] == evaluate("dpo", given, overrides=data)["loss"]
    out = evaluate("dpo", turned, overrides=rollouts | knobs)
    expected = np.log1p(np.exp(-0.1 * margins(given, ((1, 0), (5, 3))))).mean()
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    nothing = evaluate("dpo", {**given, "reward": np.ones(6)}, overrides=rollouts | knobs)
    assert nothing["loss"] == 0
    assert (nothing["grad"] == 0).all()


def test_the_chosen_answers_likelihood_is_added_as_a_mean_over_tokens() -> None:
    given = arrays(teachers=("reference",))
    chosen = np.isin(np.arange(6), [0, 3])
    nll = -taken(given, given["student_logits"])[chosen].sum() / given["mask"][chosen].sum()
    out = evaluate("dpo", given, overrides={"sft_weight": 0.5})
    assert out["terms"]["sft"] == pytest.approx(0.5 * nll, rel=1e-12)


def test_ipo_divides_by_each_answers_tokens() -> None:
    given = arrays(teachers=("reference",))
    gap = (taken(given, given["student_logits"]) - taken(given, given["teacher_logits"]["reference"])).sum(1)
    mean = gap / given["mask"].sum(1)
    expected = np.mean([(mean[w] - mean[lo] - 5) ** 2 for w, lo in DATA])
    assert evaluate("dpo", given, overrides={"loss": "ipo"})["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("knobs", "match"),
    [
        ({"pairs": "rollouts", "per_prompt": 1}, "per_prompt must be at least 2"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "hinge.*label_smoothing"),
        ({"label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"loss": "exo_pair"}, "exo_pair.*above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(knobs: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        with_knobs(DPO(), knobs)


def test_chosen_and_rejected_answers_become_pairs_by_their_numbers() -> None:
    def row(text: str) -> Trajectory:
        example = Example("e", ({"role": "user", "content": "?"},))
        return Trajectory.written(example, [1], [ord(text)], text, group=0, finished=True)

    found = preferred([row("a"), row("b")], [row("c"), row("d")])
    assert [(one.text, one.trajectory, one.pair) for one in found] == [
        ("a", 0, 1), ("c", 1, None), ("b", 2, 3), ("d", 3, None)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        preferred([row("a")], [])
