"""Card 37: what the paper says SCOPE is, in numbers, and the signs its released code turns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r37_scope import SCOPE
from selfteach.roles.view import Plain
from selfteach.roles.weights import External
from selfteach.testing import evaluate

T = 0.6
"""The paper's sampling temperature, at which the loss reads log-probs too."""


def sampled(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits, T), ids[..., None], -1)[..., 0]


def means(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """[N] mean log-prob of each rollout under student and teacher."""
    mask = given["mask"]
    sides = (given["student_logits"], given["teacher_logits"]["teacher"])
    student, teacher = ((sampled(x, given["ids"]) * mask).sum(1) / mask.sum(1) for x in sides)
    return student, teacher


def shares(perplexity: np.ndarray, power: float, group: np.ndarray, path: np.ndarray) -> np.ndarray:
    """PPL^power over its sum in the group and path; 0 off the path."""
    weight = np.zeros(len(group))
    for g in np.unique(group):
        rows = (group == g) & path
        weight[rows] = perplexity[rows] ** power / (perplexity[rows] ** power).sum()
    return weight


def weights(
    given: dict[str, Any], tau: float = 1.0, signs: tuple[int, int] = (1, -1)
) -> tuple[np.ndarray, ...]:
    """The paper's w^stu and w^tea; ``signs``: of the exponents of the perplexities."""
    student, teacher = means(given)
    right = given["reward"] > 0
    return (
        shares(np.exp(-student), signs[0] / tau, given["group"], right),
        shares(np.exp(-teacher), signs[1] / tau, given["group"], ~right),
    )


def paper_loss(given: dict[str, Any], w_student: np.ndarray, w_teacher: np.ndarray) -> float:
    ours, theirs = (
        sampled(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    ratio = np.exp(ours - given["behavior"])
    imitate = (-ours * given["mask"]).sum(1)
    distill = (ratio * (ours - theirs) * given["mask"]).sum(1)
    return float((w_student * imitate + w_teacher * distill).sum() / len(np.unique(given["group"])))


def paper_gradient(given: dict[str, Any], w_student: np.ndarray, w_teacher: np.ndarray) -> np.ndarray:
    ours, theirs = (
        sampled(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    slope = -w_student[:, None] + w_teacher[:, None] * np.exp(ours - given["behavior"]) * (ours - theirs)
    score = (np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"], T))) / T
    return (slope * given["mask"] / len(np.unique(given["group"])))[..., None] * score


def test_the_default_is_the_papers_two_paths_with_its_signs() -> None:
    given = arrays()
    out = evaluate("scope", given)
    assert out["loss"] == pytest.approx(paper_loss(given, *weights(given)), rel=1e-12)
    np.testing.assert_allclose(out["grad"], paper_gradient(given, *weights(given)), atol=1e-13)


def test_without_behavior_log_probs_the_ratio_is_one() -> None:
    given = arrays()
    given["behavior"] = sampled(given["student_logits"], given["ids"])
    bare = {k: v for k, v in given.items() if k != "behavior"}
    np.testing.assert_allclose(evaluate("scope", bare)["grad"], evaluate("scope", given)["grad"], atol=1e-14)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays()
    constant = weights(given)
    ours, theirs = (
        sampled(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    gradient = evaluate("scope", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        now = sampled(moved, given["ids"])
        right = constant[0][:, None] * -now
        wrong = constant[1][:, None] * np.exp(now - given["behavior"]) * (ours - theirs)
        return ((right + wrong) * given["mask"]).sum() / 2

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-7)


@pytest.mark.parametrize(
    ("knobs", "signs"),
    [
        ({"student_weight": "low-perplexity"}, (-1, -1)),
        ({"teacher_weight": "high-perplexity"}, (1, 1)),
        ({"student_weight": "uniform", "teacher_weight": "uniform"}, (0, 0)),
    ],
)
def test_each_sign_can_be_turned_or_taken_out(knobs: dict, signs: tuple[int, int]) -> None:
    given = arrays()
    out = evaluate("scope", given, overrides=knobs)
    assert out["loss"] == pytest.approx(paper_loss(given, *weights(given, signs=signs)), rel=1e-12)


def test_the_weight_temperature_divides_the_exponent_and_a_large_one_is_uniform() -> None:
    given = arrays()
    out = evaluate("scope", given, overrides={"weight_temperature": 3.0})
    assert out["loss"] == pytest.approx(paper_loss(given, *weights(given, tau=3.0)), rel=1e-12)
    hot = evaluate("scope", given, overrides={"weight_temperature": 1e9})
    flat = evaluate("scope", given, overrides={"student_weight": "uniform", "teacher_weight": "uniform"})
    assert hot["loss"] == pytest.approx(flat["loss"], rel=1e-8)


def path_weights(given: dict[str, Any], **knobs: Any) -> tuple[np.ndarray, np.ndarray]:
    """[N] w^stu and w^tea as the recipe has them, read off the gradient at the sampled token."""
    token = evaluate("scope", given, overrides=knobs)["grad"]
    ours, theirs = (
        sampled(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    onehot = np.eye(VOCABULARY)[given["ids"]]
    score = (onehot - np.exp(log_softmax(given["student_logits"], T))) / T
    slope = (token * onehot).sum(-1)[:, 0] / (score * onehot).sum(-1)[:, 0] * len(np.unique(given["group"]))
    ratio = np.exp(ours - given["behavior"])
    right = given["reward"] > 0
    wrong = slope / (ratio * (ours - theirs))[:, 0]
    return np.where(right, -slope, 0), np.where(right, 0, wrong)


def test_weights_of_a_group_and_path_sum_to_one_and_a_lone_rollout_weighs_one() -> None:
    student, teacher = path_weights(arrays())
    assert (student[0], teacher[5]) == (pytest.approx(1), pytest.approx(1))
    assert (student[3:5].sum(), teacher[1:3].sum()) == (pytest.approx(1), pytest.approx(1))


def test_the_rarer_right_rollout_and_the_wrong_one_the_teacher_finds_likelier_weigh_more() -> None:
    given = arrays()
    ours, theirs = means(given)
    student, teacher = path_weights(given)
    assert (student[3] > student[4]) == (ours[3] < ours[4])
    assert (teacher[1] > teacher[2]) == (theirs[1] > theirs[2])


def test_equal_perplexities_give_distillation_of_wrong_and_imitation_of_right_rollouts() -> None:
    given = arrays()
    flat = np.zeros_like(given["student_logits"])
    given |= {"student_logits": flat, "teacher_logits": {"teacher": flat}}
    out = evaluate("scope", given)
    right = given["reward"] > 0
    size = np.array(
        [(right[given["group"] == g] == r).sum() for g, r in zip(given["group"], right, strict=True)]
    )
    uniform = 1 / size
    expected = paper_loss(given, np.where(right, uniform, 0), np.where(right, 0, uniform))
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


def test_all_right_groups_have_no_distillation_and_all_wrong_ones_no_imitation() -> None:
    given = arrays()
    right = evaluate("scope", {**given, "reward": np.ones(6)})["terms"]
    wrong = evaluate("scope", {**given, "reward": np.zeros(6)})["terms"]
    assert (right["distill"], wrong["imitate"]) == (0, 0)
    assert right["imitate"] != 0 != wrong["distill"]


def test_a_teacher_that_agrees_leaves_wrong_rollouts_alone() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    wrong = given["reward"] == 0
    np.testing.assert_allclose(evaluate("scope", given)["grad"][wrong], 0, atol=1e-14)


def test_changing_the_teacher_moves_wrong_rollouts_and_no_right_one() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    a, b = (evaluate("scope", x)["grad"] for x in (given, other))
    right = given["reward"] > 0
    assert np.abs(a - b)[~right].max() > 1e-4
    np.testing.assert_array_equal(a[right], b[right])


def test_the_released_scripts_average_weights_to_one_turn_the_students_sign_and_count_tokens() -> None:
    given = arrays()
    right, mask = given["reward"] > 0, given["mask"]
    w_student, w_teacher = weights(given, signs=(-1, -1))
    for g in np.unique(given["group"]):
        rows = given["group"] == g
        w_student[rows] *= (right & rows).sum()
        w_teacher[rows] *= (~right & rows).sum()
    ours, theirs = (
        sampled(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    ratio = np.exp(ours - given["behavior"])
    reward = theirs - ours
    clipped = -np.minimum(ratio * reward, np.clip(ratio, 0.8, 1.2) * reward)
    imitate = (w_student[:, None] * -ours * mask).sum() / mask[right].sum()
    distill = (w_teacher[:, None] * clipped * mask).sum() / mask.sum()
    out = evaluate(recipe_named("scope", "released"), given)
    assert out["terms"]["imitate"] == pytest.approx(imitate, rel=1e-12)
    assert out["terms"]["distill"] == pytest.approx(distill, rel=1e-12)


@pytest.mark.parametrize("mean_over", ["prompts", "tokens"])
def test_the_full_estimator_is_the_weighted_reverse_kl_of_wrong_rollouts(mean_over: str) -> None:
    given = arrays()
    _, w_teacher = weights(given)
    p, q = (log_softmax(x, T) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    kl = ((np.exp(p) * (p - q)).sum(-1) * given["mask"]).sum(1)
    wrong = given["reward"] == 0
    size = np.array([(wrong & (given["group"] == g)).sum() for g in given["group"]])
    expected = {
        "prompts": (w_teacher * kl).sum() / 2,
        "tokens": (w_teacher * size * kl).sum() / given["mask"].sum(),
    }
    out = evaluate("scope", given, overrides={"estimator": "full", "mean_over": mean_over})
    assert out["terms"]["distill"] == pytest.approx(expected[mean_over], rel=1e-12)


def test_padding_the_order_of_rows_and_a_twin_batch_change_nothing() -> None:
    given = arrays()
    order = np.array([3, 0, 5, 1, 4, 2])

    def moved(value: np.ndarray) -> np.ndarray:
        wide = [(0, 0), (0, 3)] + [(0, 0)] * (value.ndim - 2) if value.ndim > 1 else [(0, 0)]
        return np.pad(value, wide)[order]

    other = {k: moved(v) for k, v in given.items() if isinstance(v, np.ndarray)}
    other["teacher_logits"] = {"teacher": moved(given["teacher_logits"]["teacher"])}
    loss = evaluate("scope", given)["loss"]
    assert evaluate("scope", other)["loss"] == pytest.approx(loss, rel=1e-13)
    twin = {k: np.concatenate([v, v]) for k, v in given.items() if isinstance(v, np.ndarray)}
    twin["group"][6:] += 10
    twin["teacher_logits"] = {"teacher": np.concatenate([given["teacher_logits"]["teacher"]] * 2)}
    assert evaluate("scope", twin)["loss"] == pytest.approx(loss, rel=1e-13)


def test_the_teacher_is_another_model_that_reads_what_the_student_reads() -> None:
    teacher = with_knobs(SCOPE(), {"teacher": "MODEL"}).teachers["teacher"]
    assert (teacher.weights, teacher.view) == (External("MODEL"), Plain())


def test_the_presets_hold_the_papers_values_and_the_released_signs() -> None:
    paper, released, defaults = (
        recipe_named("scope", name) for name in ("paper", "released", "released-defaults")
    )
    assert (paper.rollouts.per_prompt, paper.rollouts.temperature, paper.rollouts.max_tokens) == (8, T, 12288)
    assert (paper.optimization.lr, paper.optimization.prompts) == (5e-5, 256)
    signs = [(r.student_weight, r.teacher_weight) for r in (paper, released, defaults)]
    assert signs == [
        ("high-perplexity", "low-perplexity"),
        ("low-perplexity", "low-perplexity"),
        ("low-perplexity", "high-perplexity"),
    ]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"weight_temperature": 0.0}, "weight_temperature"),
        ({"clip": 1.5}, "clip"),
        ({"teacher": ""}, "teacher"),
        ({"estimator": "full", "clip": 0.2}, "estimator full"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SCOPE(), knobs)


@pytest.mark.parametrize("mean_over", ["prompts", "tokens"])
def test_a_rollout_without_a_token_takes_no_weight_from_the_others(mean_over: str) -> None:
    given = arrays()
    empty, without = given["mask"].copy(), np.array([True, True, True, True, False, True])
    empty[4] = False  # a right rollout of two
    whole = evaluate("scope", {**given, "mask": empty}, overrides={"mean_over": mean_over})

    def kept(value: Any) -> Any:
        return {k: kept(v) for k, v in value.items()} if isinstance(value, dict) else value[without]

    part = evaluate("scope", kept(given), overrides={"mean_over": mean_over})
    assert whole["loss"] == pytest.approx(part["loss"], rel=1e-13)
    np.testing.assert_allclose(whole["grad"][without], part["grad"], atol=1e-14)


def test_a_rollout_is_right_above_a_reward_of_zero_as_in_the_released_code() -> None:
    given = arrays()
    partly = {**given, "reward": given["reward"] * 0.3}
    assert evaluate("scope", partly)["loss"] == evaluate("scope", given)["loss"]
    out = evaluate("scope", partly, overrides={"right_above": 0.5})
    assert out["terms"]["imitate"] == 0


@pytest.mark.parametrize("knobs", [{}, {"estimator": "full"}, {"mean_over": "tokens"}])
def test_tokens_that_the_teacher_did_not_see_are_neither_read_nor_averaged(knobs: dict[str, Any]) -> None:
    given = arrays()
    seen = np.random.default_rng(2).random(given["mask"].shape) < 0.6
    given["available"] = {"teacher": seen}
    given["teacher_logits"]["teacher"][~seen] = np.nan
    out = evaluate("scope", given, overrides=knobs)
    wrong = given["reward"] == 0
    assert (out["grad"][~seen & wrong[:, None]] == 0).all()
    # A wrong rollout seen up to its middle weighs as much as one that ends there.
    half = given["mask"] & (np.arange(9) < 2)
    whole = arrays()
    part = evaluate("scope", {**whole, "available": {"teacher": half}}, overrides=knobs)
    short = np.where(wrong[:, None], half, whole["mask"])
    ends = evaluate("scope", {**whole, "mask": short}, overrides=knobs)
    assert part["terms"]["distill"] * (half.sum() if "mean_over" in knobs else 1) == pytest.approx(
        ends["terms"]["distill"] * (short.sum() if "mean_over" in knobs else 1), rel=1e-12
    )
