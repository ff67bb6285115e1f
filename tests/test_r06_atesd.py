"""Card 06: OPSD whose teacher reads as much of the solution as a learned policy says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, laptop
from selfteach.control.beta_policy import BetaController
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.r06_atesd import ATESD
from selfteach.roles.view import Answer, Messages
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

TRAIL = {
    "solution": "{problem}|{solution}",
    "partial": "{problem}|{partial}>{answer}",
    "answer": "{problem}|>{answer}",
}


def rollout() -> Trajectory:
    private = {"solution": "One.\n\nTwo.\n\nThree.\n\nFour: \\boxed{4}.", "answer": "4"}
    example = Example("k", (Message(role="user", content="2+2?"),), private)
    return Trajectory.written(example, [1], [2], "4", group=0, finished=True)


def read(recipe: OPSD, one: Trajectory, wording: dict[str, str] | None = None) -> Messages:
    messages = recipe.teachers["teacher"].view(one, [one], wording or {})
    assert messages is not None
    return messages


@pytest.mark.parametrize("wording", [{}, TRAIL])
def test_a_full_exposure_is_opsds_context_byte_for_byte(wording: dict[str, str]) -> None:
    assert read(ATESD(exposure=1.0), rollout(), wording) == read(OPSD(), rollout(), wording)


@pytest.mark.parametrize("wording", [{}, TRAIL])
def test_no_exposure_is_the_problem_and_the_answer(wording: dict[str, str]) -> None:
    one = rollout()
    assert read(ATESD(exposure=0.0), one, wording) == Answer()(one, [one], wording)
    assert "One." not in read(ATESD(exposure=0.0), one, wording)[-1]["content"]


def test_between_the_floor_of_its_share_of_the_segments_is_read_and_the_answer() -> None:
    text = read(ATESD(exposure=0.7), rollout())[-1]["content"]
    assert "Two." in text
    assert "Three." not in text
    assert "The final answer is 4." in text


def test_the_loss_is_opsds_whatever_the_exposure() -> None:
    given = arrays()
    plain, half = evaluate("opsd", given), evaluate("atesd", given, overrides={"exposure": 0.5})
    assert half["loss"] == plain["loss"]
    np.testing.assert_array_equal(half["grad"], plain["grad"])


def test_a_teacher_that_agrees_gives_zero_loss_and_gradient() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("atesd", given)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


def test_changing_the_teacher_changes_the_gradient() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    assert np.abs(evaluate("atesd", given)["grad"] - evaluate("atesd", other)["grad"]).max() > 1e-4


def test_the_policy_moves_the_exposure_and_the_view_follows() -> None:
    recipe = ATESD()
    (knob,) = recipe.controllers
    controller = recipe.controllers[knob].start(seed=0)
    assert isinstance(controller, BetaController)
    value = controller.choose(0.0)
    assert 0.2 <= value < 1
    moved = with_knobs(recipe, {knob: value})
    assert moved.teachers["teacher"].view.share == value
    assert read(moved, rollout()) != read(recipe, rollout())


def test_its_probe_measures_what_the_policy_reads() -> None:
    recipe = ATESD(probe_field="worked", probe_examples=8)
    assert recipe.reference_probe is not None
    assert (recipe.reference_probe.field, recipe.reference_probe.examples) == ("worked", 8)
    observed = {f"reference/{name}": -1.0 for name in ("student", *recipe.teachers)}
    observed |= {"loss": 0.1, "entropy/student": 0.2, "divergence/teacher": 0.3}
    recipe.controllers["exposure"].start(seed=0).observe(observed)


def test_a_fixed_exposure_has_neither_policy_nor_probe() -> None:
    fixed = ATESD(adaptive=False, exposure=0.5)
    assert not fixed.controllers
    assert fixed.reference_probe is None


def test_the_policys_settings_are_knobs_of_the_recipe() -> None:
    recipe = with_knobs(ATESD(), {"hold": 5, "policy_lr": 0.0})
    assert (recipe.policy.hold, recipe.policy.policy_lr) == (5, 0.0)


def test_the_presets_rest_on_opsds() -> None:
    paper, arena = recipe_named("atesd"), laptop("atesd")
    assert isinstance(paper, ATESD)
    assert isinstance(arena, ATESD)
    assert (paper.beta, paper.clip_entry, paper.mean_over, paper.weights) == (0, 0.05, "sequences", "frozen")
    assert arena.optimization == laptop("opsd").optimization


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"exposure": 1.5}, "exposure"),
        ({"view": "answer"}, "--view"),
        ({"probe_examples": 0}, "probe_examples"),
        ({"hold": 0}, "hold"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(ATESD(), knobs)
