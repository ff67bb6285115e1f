"""Card 12: what the paper says π-Distill and its OPSD are, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax
from selfteach.recipes import recipe_named, with_knobs
from selfteach.roles.private import Field, InSystem
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

EPS = 1e-4


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def written_by(given: dict[str, Any], logits: np.ndarray) -> dict[str, Any]:
    return {**given, "behavior": taken(logits, given["ids"])}


def batch() -> dict[str, Any]:
    """On the teacher's own answers; the student's ratios lie within the clip and beyond it."""
    given = arrays()
    rng = np.random.default_rng(5)
    teacher = given["student_logits"] + 0.3 * rng.normal(size=given["student_logits"].shape)
    given["teacher_logits"] = {"teacher": teacher}
    return written_by(given, teacher)


def advantage(given: dict[str, Any]) -> np.ndarray:
    found = np.zeros(len(given["reward"]))
    for group in set(given["group"]):
        rows = given["group"] == group
        r = given["reward"][rows]
        found[rows] = (r - r.mean()) / (r.std(ddof=1) + EPS)
    return found[:, None]


def score(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """∇ log π(y_t) in the logits."""
    return np.eye(VOCABULARY)[ids] - np.exp(log_softmax(logits))


def weight(given: dict[str, Any]) -> np.ndarray:
    mask = given["mask"]
    return (mask / mask.sum(1, keepdims=True) / len(mask))[..., None]


def reinforced(given: dict[str, Any], logits: np.ndarray) -> np.ndarray:
    """GRPO's gradient in these logits."""
    r, a = np.exp(taken(logits, given["ids"]) - given["behavior"]), advantage(given)
    open_ = np.where(a >= 0, r < 1.2, r > 0.8)
    return -weight(given) * (open_ * r * a)[..., None] * score(logits, given["ids"])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kl", [0.0, 0.25])
def test_each_side_has_its_own_losss_gradient_and_no_other(alpha: float, kl: float) -> None:
    given = batch()
    ids, student, teacher = given["ids"], given["student_logits"], given["teacher_logits"]["teacher"]
    gap = (taken(teacher, ids) - taken(student, ids))[..., None]
    up = reinforced(given, teacher) + kl * weight(given) * gap * score(teacher, ids)
    down = reinforced(given, student) - kl * weight(given) * score(student, ids)
    grads = evaluate("pi-distill", given, overrides={"alpha": alpha, "kl": kl})["grads"]
    expected = {"teacher": alpha * up, "student": (1 - alpha) * down}
    for role, gradient in expected.items():
        found = grads.get(role, np.zeros_like(gradient))
        np.testing.assert_allclose(found, gradient, atol=1e-13)


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_opsd_is_grpo_with_a_reverse_kl_to_the_teacher_whose_prompt_is_not_trained(kl: float) -> None:
    given = batch()
    student, teacher = given["student_logits"], given["teacher_logits"]["teacher"]
    given = written_by(given, student)
    gap = (taken(student, given["ids"]) - taken(teacher, given["ids"]))[..., None]
    expected = reinforced(given, student) + kl * weight(given) * gap * score(student, given["ids"])
    out = evaluate("pi-distill", given, overrides={"form": "opsd", "kl": kl})
    np.testing.assert_allclose(out["grad"], expected, atol=1e-13)
    assert not np.any(out["grads"].get("teacher", 0.0))


def test_in_expectation_the_pull_is_the_reverse_kl_of_either_side() -> None:
    """Σ_v π_T(v) of the teacher's pull at token v is ∇ KL(π_T ‖ sg π_S) in the teacher's logits."""
    given = {**batch(), "reward": np.zeros(6)}
    student, teacher = given["student_logits"], given["teacher_logits"]["teacher"]
    total = 0.0
    for v in range(VOCABULARY):
        one = written_by({**given, "ids": np.full_like(given["ids"], v)}, teacher)
        grad = evaluate("pi-distill", one, overrides={"alpha": 1.0, "kl": 1.0})["grads"]["teacher"]
        total = total + np.exp(log_softmax(teacher))[..., v : v + 1] * grad
    t, s = log_softmax(teacher), log_softmax(student)
    gap = t - s
    reverse = np.exp(t) * (gap - (np.exp(t) * gap).sum(-1, keepdims=True))
    np.testing.assert_allclose(total, weight(given) * reverse, atol=1e-13)


def test_without_rewards_the_student_is_fine_tuned_on_the_teachers_answers() -> None:
    given = {**batch(), "reward": np.zeros(6)}
    out = evaluate("pi-distill", given, overrides={"alpha": 0.0, "kl": 0.25})
    alone = {name: value for name, value in given.items() if name != "teacher_logits"}
    sft = evaluate("sft", alone, overrides={"mean_over": "sequences"})
    np.testing.assert_allclose(out["grad"], 0.25 * sft["grad"], atol=1e-14)


def test_no_privilege_makes_all_forms_the_same_reinforcement() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    given = written_by(given, given["student_logits"])
    expected = reinforced(given, given["student_logits"])
    joint = evaluate("pi-distill", given, overrides={"kl": 0.0})["grads"]
    np.testing.assert_allclose(joint["student"] + joint["teacher"], expected, atol=1e-13)
    on_policy = evaluate("pi-distill", given, overrides={"form": "opsd", "kl": 0.7})
    np.testing.assert_allclose(on_policy["grad"], expected, atol=1e-13)


# --- what the teacher reads --------------------------------------------------------------------------------------


def shown(*prompt: Message, **private: str) -> Any:
    example = Example("k", prompt, private)
    return InSystem("solution")(Trajectory(example, [1], (), "", 0, False), [], {})


USER = Message(role="user", content="2 + 2?")


def test_it_reads_the_field_before_everything_that_the_system_prompt_says() -> None:
    alone = shown(USER, solution="4 {braces} stay")
    assert [one["role"] for one in alone] == ["system", "user"]
    assert "4 {braces} stay" in alone[0]["content"]
    both = shown(Message(role="system", content="Be brief."), USER, solution="4")
    assert [one["role"] for one in both] == ["system", "user"]
    assert both[0]["content"].endswith("\n\nBe brief.")
    assert both[1] == USER
    assert shown(USER) is None


def test_the_place_is_a_knob() -> None:
    (own,) = recipe_named("pi-distill").teachers.values()
    (user,) = with_knobs(recipe_named("pi-distill"), {"place": "user"}).teachers.values()
    assert own.view == InSystem("solution")
    assert user.view == Field("solution")
