"""Card 33: what the paper says G-OPD and ExOPD are, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r33_exopd import ExOPD
from selfteach.roles.view import Plain
from selfteach.roles.weights import External, Frozen
from selfteach.studies.laptop import presets
from selfteach.testing import evaluate

BOTH = ("teacher", "reference")


def sampled(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def advantage(given: dict[str, Any], scale: float, teacher: str = "teacher") -> np.ndarray:
    """[N, T] −[(log π − log π_ref) − λ (log π* − log π_ref)], the card's first form."""
    ours, theirs, base = (
        sampled(logits, given["ids"])
        for logits in (
            given["student_logits"],
            given["teacher_logits"][teacher],
            given["teacher_logits"]["reference"],
        )
    )
    return -((ours - base) - scale * (theirs - base))


def weight(given: dict[str, Any], cap: float = 5.0) -> np.ndarray:
    return np.minimum(np.exp(sampled(given["student_logits"], given["ids"]) - given["behavior"]), cap)


def gradient(given: dict[str, Any], weighted_advantage: np.ndarray) -> np.ndarray:
    """Of −mean_t (weighted advantage) log π(y_t)."""
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    kept = weighted_advantage * given["mask"] / given["mask"].sum()
    return -kept[..., None] * score


def test_the_default_is_the_extrapolated_advantage_with_capped_rollout_weights() -> None:
    given = arrays(teachers=BOTH)
    given["behavior"] = given["behavior"] * 6
    wanted = weight(given) * advantage(given, 1.25)
    assert (weight(given)[given["mask"]] == 5.0).any()
    out = evaluate("exopd", given)
    ours = sampled(given["student_logits"], given["ids"])
    loss = float((-wanted * ours * given["mask"]).sum() / given["mask"].sum())
    assert out["loss"] == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(out["grad"], gradient(given, wanted), atol=1e-13)


def test_without_behavior_log_probs_every_token_weighs_one() -> None:
    given = {k: v for k, v in arrays(teachers=BOTH).items() if k != "behavior"}
    np.testing.assert_allclose(
        evaluate("exopd", given)["grad"], gradient(given, advantage(given, 1.25)), atol=1e-13
    )


def test_a_scale_of_one_is_plain_distillation_and_asks_no_reference() -> None:
    recipe = recipe_named("exopd", "opd")
    assert list(recipe.teachers) == ["teacher"]
    given = arrays()
    del given["behavior"]
    opd = evaluate(
        "opsd",
        given,
        overrides={
            "loss": "policy-gradient",
            "clip_entry": None,
            "mean_over": "tokens",
            "loss_temperature": 1.0,
        },
    )
    out = evaluate(recipe, given)
    assert out["loss"] == pytest.approx(opd["loss"], rel=1e-12)
    np.testing.assert_allclose(out["grad"], opd["grad"], atol=1e-14)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays(teachers=BOTH)
    del given["behavior"]
    constant = advantage(given, 1.25)
    out = evaluate("exopd", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        token = -constant * sampled(moved, given["ids"])
        return (token * given["mask"]).sum() / given["mask"].sum()

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(out[i], abs=1e-8)


def over_all_tokens(given: dict[str, Any], **knobs: Any) -> np.ndarray:
    """Σ_v π(v) · gradient if v had been sampled: the expected gradient."""
    p = np.exp(log_softmax(given["student_logits"]))
    return sum(
        p[..., v : v + 1]
        * evaluate("exopd", {**given, "ids": np.full_like(given["ids"], v)}, overrides=knobs)["grad"]
        for v in range(VOCABULARY)
    )


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.25, 2.0])
def test_the_optimum_is_the_geometric_extrapolation_where_the_advantage_is_log_z(scale: float) -> None:
    given = arrays(teachers=BOTH)
    del given["behavior"]
    reference, teacher = (log_softmax(given["teacher_logits"][name]) for name in ("reference", "teacher"))
    unnormalized = (1 - scale) * reference + scale * teacher
    given["student_logits"] = unnormalized
    np.testing.assert_allclose(over_all_tokens(given, reward_scale=scale), 0, atol=1e-14)
    log_z = np.log(np.exp(unnormalized).sum(-1))
    for token in range(VOCABULARY):
        at = {**given, "ids": np.full_like(given["ids"], token)}
        np.testing.assert_allclose(
            evaluate("exopd", at, overrides={"reward_scale": scale})["grad"],
            gradient(at, log_z),
            atol=1e-13,
        )


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
def test_the_full_estimator_is_the_expectation_of_the_sampled_one(scale: float) -> None:
    given = arrays(teachers=BOTH)
    del given["behavior"]
    full = evaluate("exopd", given, overrides={"reward_scale": scale, "estimator": "full"})
    np.testing.assert_allclose(full["grad"], over_all_tokens(given, reward_scale=scale), atol=1e-13)


def test_the_full_estimator_routes_by_tag_under_one_denominator() -> None:
    recipe = with_knobs(ExOPD(), {"teacher": "math=A,code=B", "estimator": "full", "reward_scale": 1.0})
    given = arrays(teachers=tuple(recipe.teachers))
    math, code = np.array([1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 1, 1, 1, 0], bool)
    given["available"] = {"teacher-math": math, "teacher-code": code}
    p = log_softmax(given["student_logits"])
    q = log_softmax(
        np.where(
            math[:, None, None], *(given["teacher_logits"][f"teacher-{tag}"] for tag in ("math", "code"))
        )
    )
    kept = given["mask"] & (math | code)[:, None]
    expected = float(((np.exp(p) * (p - q)).sum(-1) * kept).sum() / kept.sum())
    assert evaluate(recipe, given)["loss"] == pytest.approx(expected, rel=1e-12)


def test_a_scale_of_one_rests_at_the_teacher_and_of_zero_at_the_reference() -> None:
    given = arrays(teachers=BOTH)
    del given["behavior"]
    for scale, name in ((1.0, "teacher"), (0.0, "reference")):
        given["student_logits"] = given["teacher_logits"][name].copy()
        out = evaluate("exopd", given, overrides={"reward_scale": scale})
        np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


def test_of_two_tokens_the_optimal_logit_is_the_line_through_both_logits() -> None:
    reference, teacher, scale = 0.4, -1.1, 1.25
    given = {
        "ids": np.array([[0]]),
        "mask": np.array([[True]]),
        "student_logits": np.array([[[(1 - scale) * reference + scale * teacher, 0.0]]]),
        "teacher_logits": {
            "teacher": np.array([[[teacher, 0.0]]]),
            "reference": np.array([[[reference, 0.0]]]),
        },
    }
    mean = sum(
        np.exp(log_softmax(given["student_logits"]))[0, 0, v]
        * evaluate("exopd", {**given, "ids": np.array([[v]])})["grad"]
        for v in (0, 1)
    )
    np.testing.assert_allclose(mean, 0, atol=1e-15)


def test_equal_models_everywhere_give_no_gradient() -> None:
    given = arrays(teachers=BOTH)
    given["teacher_logits"] = {name: given["student_logits"].copy() for name in BOTH}
    np.testing.assert_allclose(evaluate("exopd", given)["grad"], 0, atol=1e-14)


@pytest.mark.parametrize("name", BOTH)
def test_changing_either_model_changes_the_gradient(name: str) -> None:
    given = arrays(teachers=BOTH)
    moved = {**given["teacher_logits"], name: given["teacher_logits"][name] + np.arange(VOCABULARY) * 0.1}
    a, b = (evaluate("exopd", x)["grad"] for x in (given, {**given, "teacher_logits": moved}))
    assert np.abs(a - b).max() > 1e-4


def test_each_row_learns_from_the_teacher_of_its_tag_and_rows_without_one_do_not_count() -> None:
    recipe = with_knobs(ExOPD(), {"teacher": "math=A,code=B"})
    assert list(recipe.teachers) == ["teacher-math", "teacher-code", "reference"]
    given = arrays(teachers=tuple(recipe.teachers))
    del given["behavior"]
    math, code = np.array([1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 1, 1, 1, 0], bool)
    given["available"] = {"teacher-math": math, "teacher-code": code}
    constant = np.where(
        math[:, None], advantage(given, 1.25, "teacher-math"), advantage(given, 1.25, "teacher-code")
    )
    counted = {**given, "mask": given["mask"] & (math | code)[:, None]}
    np.testing.assert_allclose(evaluate(recipe, given)["grad"], gradient(counted, constant), atol=1e-13)


def test_another_tags_teacher_leaves_a_row_as_it_is() -> None:
    recipe = with_knobs(ExOPD(), {"teacher": "math=A,code=B"})
    given = arrays(teachers=tuple(recipe.teachers))
    math = np.array([1, 1, 0, 0, 0, 0], bool)
    given["available"] = {"teacher-math": math, "teacher-code": ~math}
    other = dict(given["teacher_logits"])
    other["teacher-code"] = other["teacher-code"] + np.arange(VOCABULARY)
    a, b = (evaluate(recipe, x)["grad"] for x in (given, {**given, "teacher_logits": other}))
    np.testing.assert_array_equal(a[math], b[math])
    assert np.abs(a - b)[~math].max() > 1e-4


def test_padding_and_the_order_of_rows_change_nothing() -> None:
    given = arrays(teachers=BOTH)
    order = np.array([3, 0, 5, 1, 4, 2])

    def moved(value: np.ndarray) -> np.ndarray:
        wide = [(0, 0), (0, 3)] + [(0, 0)] * (value.ndim - 2) if value.ndim > 1 else [(0, 0)]
        return np.pad(value, wide)[order]

    other = {k: moved(v) for k, v in given.items() if isinstance(v, np.ndarray)}
    other["teacher_logits"] = {name: moved(v) for name, v in given["teacher_logits"].items()}
    assert evaluate("exopd", other)["loss"] == pytest.approx(evaluate("exopd", given)["loss"], rel=1e-13)


def test_teachers_and_reference_read_what_the_student_reads() -> None:
    for preset in presets(ExOPD).values():
        for teacher in preset.teachers.values():
            assert teacher.view == Plain()
            assert teacher.thinking == preset.student_thinking


def test_the_reference_is_the_student_at_first_or_a_named_model() -> None:
    assert ExOPD().teachers["reference"].weights == Frozen()
    corrected = with_knobs(ExOPD(), {"reference": "BASE"})
    assert corrected.teachers["reference"].weights == External("BASE")


def test_one_model_teaches_all_and_tagged_ones_their_tag() -> None:
    one = with_knobs(ExOPD(), {"teacher": "./lr=1/model"}).teachers["teacher"]
    assert (one.weights, one.tag) == (External("./lr=1/model"), None)
    several = with_knobs(ExOPD(), {"teacher": "math=A/b=1, code=B"}).teachers
    assert (several["teacher-math"].weights, several["teacher-math"].tag) == (External("A/b=1"), "math")
    assert (several["teacher-code"].weights, several["teacher-code"].tag) == (External("B"), "code")


def test_the_presets_hold_the_papers_values() -> None:
    same, strong, opd = (recipe_named("exopd", name) for name in ("same-size", "strong-to-weak", "opd"))
    assert isinstance(same, ExOPD)
    assert (same.reward_scale, same.is_cap, same.reference) == (1.25, 5.0, "initial")
    assert (same.rollouts.per_prompt, same.rollouts.temperature, same.rollouts.max_tokens) == (1, 1.0, 16384)
    assert (same.optimization.lr, same.optimization.prompts, same.optimization.steps) == (1e-5, 1024, 50)
    assert strong.optimization.steps == 100
    assert isinstance(opd, ExOPD)
    assert opd.reward_scale == 1.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"reward_scale": -0.5}, "reward_scale"),
        ({"is_cap": 0.0}, "is_cap"),
        ({"teacher": ""}, "teacher"),
        ({"teacher": "math=A,B"}, "tag=model"),
        ({"teacher": "math=A,math=B"}, "each tag once"),
        ({"reference": ""}, "reference"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(ExOPD(), knobs)


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_rollouts_without_a_reference_are_left_out_of_sum_and_divisor(estimator: str) -> None:
    given, knobs = arrays(teachers=BOTH), {"estimator": estimator}
    seen = np.array([True, True, False, True, False, True])
    reference = np.where(seen[:, None, None], given["teacher_logits"]["reference"], np.nan)
    blind = {**given, "available": {"reference": seen}}
    blind["teacher_logits"] = {**given["teacher_logits"], "reference": reference}

    def kept(value: Any) -> Any:
        return {k: kept(v) for k, v in value.items()} if isinstance(value, dict) else value[seen]

    whole, part = (evaluate("exopd", x, overrides=knobs) for x in (blind, kept(given)))
    assert whole["loss"] == pytest.approx(part["loss"], rel=1e-13)
    np.testing.assert_allclose(whole["grad"][seen], part["grad"], atol=1e-14)
    assert (whole["grad"][~seen] == 0).all()
