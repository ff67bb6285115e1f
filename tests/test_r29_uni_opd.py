"""Card 29: what the paper says Uni-OPD is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import LENGTHS, VOCABULARY, arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.testing import evaluate

ALL = {"balance": None, "outlier": None}
PLAIN = {**ALL, "shift": "none"}


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def on_policy(seed: int = 0) -> dict[str, Any]:
    """A batch that the student wrote as it is: ratio 1."""
    given = arrays(seed)
    given["behavior"] = taken(given["student_logits"], given["ids"])
    return given


def signal(given: dict[str, Any]) -> np.ndarray:
    """[N, T] log π_T − log π_old."""
    return taken(given["teacher_logits"]["teacher"], given["ids"]) - taken(
        given["student_logits"], given["ids"]
    )


def returns(given: dict[str, Any]) -> np.ndarray:
    return (signal(given) * given["mask"]).sum(1) / LENGTHS


def shifts(given: dict[str, Any], margin: float, of: str, how: str) -> np.ndarray:
    G, found = returns(given), np.zeros(6)
    for group in (0, 1):
        rows = given["group"] == group
        right, wrong = rows & (given["reward"] == 1), rows & (given["reward"] == 0)
        if not right.any() or not wrong.any():
            continue
        gap = G[right].mean() - G[wrong].mean() if of == "mean" else G[right].min() - G[wrong].max()
        missing = max(0.0, margin - gap)
        up, down = {"both": (0.5, 0.5), "correct-up": (1, 0), "incorrect-down": (0, 1), "none": (0, 0)}[how]
        found[right], found[wrong] = up * missing, -down * missing
    return found


def gradient(given: dict[str, Any], advantage: np.ndarray) -> np.ndarray:
    """Of the mean over rows of the mean over tokens of −A log π, at ratio 1."""
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    weight = given["mask"] / given["mask"].sum(1, keepdims=True) / len(given["ids"])
    return -(weight * advantage)[..., None] * score


@pytest.mark.parametrize("of", ["extremes", "mean"])
@pytest.mark.parametrize("how", ["both", "correct-up", "incorrect-down", "none"])
@pytest.mark.parametrize("margin", [0.4, 3.0])
def test_the_gradient_is_distillations_with_shifted_advantages(of: str, how: str, margin: float) -> None:
    given = on_policy()
    expected = gradient(given, signal(given) + shifts(given, margin, of, how)[:, None])
    out = evaluate("uni-opd", given, overrides={**ALL, "margin_of": of, "shift": how, "margin": margin})
    np.testing.assert_allclose(out["grad"], expected, atol=1e-12)


def test_after_the_shift_of_means_their_gap_is_the_margin_or_what_it_was() -> None:
    for seed in range(5):
        given = on_policy(seed)
        G = returns(given)
        moved = G + shifts(given, 0.4, "mean", "both")
        for group in (0, 1):
            right = (given["group"] == group) & (given["reward"] == 1)
            wrong = (given["group"] == group) & (given["reward"] == 0)
            before = G[right].mean() - G[wrong].mean()
            assert moved[right].mean() - moved[wrong].mean() == pytest.approx(max(before, 0.4))


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_of_one_outcome_is_left_as_it_is(reward: float) -> None:
    given = {**on_policy(), "reward": np.full(6, reward)}
    one, other = (evaluate("uni-opd", given, overrides=knobs) for knobs in ({**ALL, "margin": 5.0}, PLAIN))
    np.testing.assert_array_equal(one["grad"], other["grad"])


def test_a_margin_far_below_everything_is_plain_distillation() -> None:
    given = on_policy()
    out = evaluate("uni-opd", given, overrides={**ALL, "margin": -1e6})
    np.testing.assert_allclose(out["grad"], gradient(given, signal(given)), atol=1e-12)


def test_balance_trains_on_as_many_right_answers_as_wrong_ones() -> None:
    given = on_policy()  # right: 1 of 3 and 2 of 3
    often = np.zeros(6)
    for step in range(200):
        moved = np.abs(evaluate("uni-opd", given, step)["grad"]).sum((1, 2)) > 0
        often += moved
        for group in (0, 1):
            rows = given["group"] == group
            assert (moved & rows & (given["reward"] == 1)).sum() == 1
            assert (moved & rows & (given["reward"] == 0)).sum() == 1
    assert (often[[0, 5]] == 200).all()  # who is alone on its side stays
    assert ((often[[1, 2, 3, 4]] > 70) & (often[[1, 2, 3, 4]] < 130)).all()


def test_where_there_is_one_side_only_nothing_is_left_out() -> None:
    given = {**on_policy(), "reward": np.ones(6)}
    out = evaluate("uni-opd", given, overrides={"outlier": None})
    assert (np.abs(out["grad"]).sum((1, 2)) > 0).all()


def test_two_to_one_keeps_twice_as_many_right_ones() -> None:
    given = {**on_policy(), "reward": np.array([1.0, 1, 0, 1, 1, 0])}
    out = evaluate("uni-opd", given, overrides={"balance": 2.0, "outlier": None})
    assert (np.abs(out["grad"]).sum((1, 2)) > 0).all()


def test_a_token_far_from_the_teacher_is_left_out_of_the_loss_not_of_the_mean() -> None:
    given = on_policy()
    given["teacher_logits"]["teacher"][0, 2] = -50.0
    given["teacher_logits"]["teacher"][0, 2, (given["ids"][0, 2] + 1) % VOCABULARY] = 50.0
    out = evaluate("uni-opd", given, overrides={**PLAIN, "outlier": 10.0})
    advantage = signal(given)
    assert abs(advantage[0, 2]) > 10
    advantage[0, 2] = 0
    np.testing.assert_allclose(out["grad"], gradient(given, advantage), atol=1e-12)


def test_the_ratio_is_clipped() -> None:
    given = on_policy()
    given["behavior"] = given["behavior"] - 1.0  # ratio e on every token
    out = evaluate("uni-opd", given, overrides=PLAIN)
    up = signal(given) > 0
    assert (np.abs(out["grad"]).sum(-1)[up & given["mask"]] == 0).all()


def by_tag(given: dict[str, Any]) -> dict[str, Any]:
    """The same scores, each row by the expert of its tag."""
    math = np.array([True, False, True, True, False, True])
    logits = given["teacher_logits"]["teacher"]
    return {
        **given,
        "teacher_logits": {"teacher-math": logits, "teacher-code": logits},
        "available": {"teacher-math": math, "teacher-code": ~math},
    }


@pytest.mark.parametrize("knobs", [{}, PLAIN, {**ALL, "margin_of": "mean"}])
def test_two_experts_teach_what_one_would_that_says_the_same(knobs: dict[str, Any]) -> None:
    given = on_policy()
    one = evaluate("uni-opd", given, overrides=knobs)
    two = evaluate("uni-opd", by_tag(given), overrides={**knobs, "teacher": "math=a,code=b"})
    assert np.abs(one["grad"]).max() > 0
    np.testing.assert_allclose(two["grad"], one["grad"], atol=1e-14)


def test_an_answer_that_no_expert_scored_counts_nowhere() -> None:
    given = on_policy()
    seen = np.array([True, False, True, True, True, True])
    out = evaluate("uni-opd", {**given, "available": {"teacher": seen}}, overrides={**ALL, "margin": 3.0})
    assert not out["grad"][1].any()
    rows = np.flatnonzero(seen)
    fewer = {name: value[rows] for name, value in given.items() if isinstance(value, np.ndarray)}
    fewer["teacher_logits"] = {"teacher": given["teacher_logits"]["teacher"][rows]}
    alone = evaluate("uni-opd", fewer, overrides={**ALL, "margin": 3.0})
    np.testing.assert_allclose(out["grad"][rows], alone["grad"], atol=1e-14)


def test_what_the_teacher_excludes_is_refused_by_name_or_left_out_as_an_outlier() -> None:
    given = on_policy()
    given["teacher_logits"]["teacher"][0, 2, given["ids"][0, 2]] = -np.inf
    out = evaluate("uni-opd", given, overrides={"shift": "none", "balance": None})
    assert np.isfinite(out["grad"]).all()
    assert not out["grad"][0, 2].any()
    with pytest.raises(ValueError, match="distill"):
        evaluate("uni-opd", given, overrides={"outlier": None, "balance": None})


def test_the_signal_is_against_the_policy_before_the_batchs_first_update() -> None:
    given = on_policy()
    old = taken(given["student_logits"], given["ids"]) + 0.3
    given["old_log_probs"] = {"student": old}
    out = evaluate("uni-opd", given, overrides=PLAIN)
    moved = taken(given["teacher_logits"]["teacher"], given["ids"]) - old
    np.testing.assert_allclose(out["grad"], gradient(given, moved), atol=1e-12)


def test_experts_are_asked_by_tag() -> None:
    recipe = with_knobs(recipe_named("uni-opd"), {"teacher": "math=a,code=b"})
    assert list(recipe.teachers) == ["teacher-math", "teacher-code"]
    assert {role.tag for role in recipe.teachers.values()} == {"math", "code"}
    with pytest.raises(UserError, match="each tag once"):
        with_knobs(recipe_named("uni-opd"), {"teacher": "math=a,math=b"})


def test_one_answer_of_a_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="per_prompt"):
        with_knobs(recipe_named("uni-opd"), {"per_prompt": 1})
