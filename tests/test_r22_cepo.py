"""Card 22: what CEPO and RLSD are, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r22_cepo import CEPO
from selfteach.roles.attempt import Evidence
from selfteach.task.arena import WORLDS
from selfteach.task.example import Grade
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

PAIR = ("right", "wrong")
RLSD = {"contrast": "student"}


def sampled(given: dict[str, Any], logits: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]


def batch(seed: int = 0) -> dict[str, Any]:
    """Sampled by the student itself, so that the ratio is 1 and a token's loss is minus its advantage."""
    given = arrays(seed, teachers=PAIR)
    return {**given, "behavior": sampled(given, given["student_logits"])}


def group_advantages(given: dict[str, Any]) -> np.ndarray:
    result = np.zeros(len(given["reward"]))
    for g in np.unique(given["group"]):
        own = given["reward"][given["group"] == g]
        result[given["group"] == g] = (own - own.mean()) / (own.std(ddof=1) + 1e-4)
    return result


def evidence(given: dict[str, Any]) -> np.ndarray:
    right, wrong = (sampled(given, given["teacher_logits"][name]) for name in PAIR)
    return right - wrong


def advantages(given: dict[str, Any], step: int = 0, **knobs: Any) -> np.ndarray:
    """[N, T] A_t as the recipe has it, NaN at tokens nobody wrote."""
    return -evaluate("cepo", given, step, knobs)["token"]["loss/policy"]


# --- the advantage -----------------------------------------------------------------------------------------------


def by_hand(a: np.ndarray, delta: np.ndarray, strength: float = 0.5, eps: float = 0.5) -> np.ndarray:
    weight = np.clip(np.exp(np.sign(a)[:, None] * delta), 1 - eps, 1 + eps)
    return a[:, None] * ((1 - strength) + strength * weight)


@pytest.mark.parametrize("eps", [0.2, 0.5])
def test_the_advantage_is_reweighted_by_the_clipped_evidence(eps: float) -> None:
    given = batch()
    expected = by_hand(group_advantages(given), evidence(given), eps=eps)[given["mask"]]
    np.testing.assert_allclose(advantages(given, clip_weight=eps)[given["mask"]], expected, rtol=1e-10)


def test_the_loss_is_ppos_clipped_surrogate_of_that_advantage_over_all_tokens() -> None:
    given = arrays(teachers=PAIR)
    a = by_hand(group_advantages(given), evidence(given))
    ratio = np.exp(sampled(given, given["student_logits"]) - given["behavior"])
    surrogate = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.28) * a)
    expected = (surrogate * given["mask"]).sum() / given["mask"].sum()
    assert evaluate("cepo", given)["loss"] == pytest.approx(expected, rel=1e-10)


def test_rlsd_holds_the_right_answers_opinion_against_the_students_own() -> None:
    given = batch()
    delta = sampled(given, given["teacher_logits"]["right"]) - given["behavior"]
    expected = by_hand(group_advantages(given), delta, eps=0.2)[given["mask"]]
    out = evaluate(recipe_named("cepo", "rlsd"), given)
    np.testing.assert_allclose(-out["token"]["loss/policy"][given["mask"]], expected, rtol=1e-10)


def test_with_the_student_as_the_wrong_answers_reader_cepo_is_rlsd_bit_for_bit() -> None:
    given = {name: value for name, value in batch().items() if name != "behavior"}
    given["teacher_logits"]["wrong"] = given["student_logits"].copy()
    for step in (0, 7):
        a, b = (evaluate("cepo", given, step, knobs) for knobs in ({}, RLSD))
        assert a["loss"] == b["loss"]
        assert (a["grad"] == b["grad"]).all()


@pytest.mark.parametrize(
    ("what", "knobs", "step"),
    [("lambda 0", {"mix": 0.0}, 0), ("epsilon 0", {"clip_weight": 0.0}, 0), ("after the fade", {}, 25)],
)
def test_there_the_advantage_is_grpos(what: str, knobs: dict[str, Any], step: int) -> None:
    given = batch()
    expected = np.broadcast_to(group_advantages(given)[:, None], given["mask"].shape)[given["mask"]]
    np.testing.assert_allclose(advantages(given, step, **knobs)[given["mask"]], expected, rtol=1e-12)


def test_equal_evidence_for_both_answers_leaves_grpo() -> None:
    given = batch()
    given["teacher_logits"]["wrong"] = given["teacher_logits"]["right"].copy()
    grpo = evaluate("grpo", given, overrides={"kl": 0.0, "clip_high": 0.28, "mean_over": "tokens"})
    cepo = evaluate("cepo", given)
    assert cepo["loss"] == pytest.approx(grpo["loss"], rel=1e-12)
    np.testing.assert_allclose(cepo["grad"], grpo["grad"], atol=1e-15)


def test_the_sign_never_flips_and_the_factor_stays_within_lambda_epsilon() -> None:
    given = batch()
    given["teacher_logits"] = {name: 20 * x for name, x in given["teacher_logits"].items()}
    a = np.broadcast_to(group_advantages(given)[:, None], given["mask"].shape)[given["mask"]]
    factor = advantages(given)[given["mask"]] / a
    assert factor.min() == pytest.approx(0.75)
    assert factor.max() == pytest.approx(1.25)
    still = {**given, "reward": np.array([1.0, 1, 1, 0, 0, 0])}
    assert (advantages(still)[given["mask"]] == 0).all()


def test_tokens_that_a_wrong_answer_speaks_for_are_punished_more_in_a_wrong_rollout() -> None:
    given = batch()
    rows = np.broadcast_to((group_advantages(given) < 0)[:, None], given["mask"].shape) & given["mask"]
    a = np.broadcast_to(group_advantages(given)[:, None], given["mask"].shape)
    for_wrong = rows & (evidence(given) < -0.1)
    for_right = rows & (evidence(given) > 0.1)
    weighed = advantages(given)
    assert for_wrong.any()
    assert for_right.any()
    assert (weighed[for_wrong] < a[for_wrong]).all()
    assert (weighed[for_right] > a[for_right]).all()


@pytest.mark.parametrize("name", PAIR)
def test_changing_either_teacher_changes_the_gradient(name: str) -> None:
    given = batch()
    moved = {**given["teacher_logits"], name: given["teacher_logits"][name] + 0.1 * np.arange(VOCABULARY)}
    a, b = (evaluate("cepo", x)["grad"] for x in (given, {**given, "teacher_logits": moved}))
    assert np.abs(a - b).max() > 1e-4


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays(teachers=PAIR)
    gradient = evaluate("cepo", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("cepo", {**given, "student_logits": moved})["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_the_answers_reach_the_gradient_through_constants_only() -> None:
    given = batch()
    p = np.exp(log_softmax(given["student_logits"]))
    score = np.eye(VOCABULARY)[given["ids"]] - p
    a = np.where(given["mask"], by_hand(group_advantages(given), evidence(given)), 0.0)
    expected = -a[..., None] * score / given["mask"].sum()
    np.testing.assert_allclose(evaluate("cepo", given)["grad"], expected, atol=1e-13)


def test_a_rollout_without_an_answer_to_show_keeps_its_advantage() -> None:
    given = {**batch(), "available": {"right": np.arange(6) != 1, "wrong": np.arange(6) != 2}}
    weighed = advantages(given)
    for row in (1, 2):
        np.testing.assert_allclose(weighed[row][given["mask"][row]], group_advantages(given)[row], rtol=1e-12)
    assert np.nanstd(weighed[0]) > 0.01


def test_log_probs_handed_over_alone_are_enough() -> None:
    given = batch()
    log_probs = {name: sampled(given, logits) for name, logits in given["teacher_logits"].items()}
    slim = {name: value for name, value in given.items() if name != "teacher_logits"}
    out = evaluate("cepo", {**slim, "teacher_log_probs": log_probs})
    assert out["loss"] == pytest.approx(evaluate("cepo", given)["loss"], rel=1e-12)
    assert {teacher.signal for teacher in CEPO().teachers.values()} == {"sampled"}


def test_padding_and_the_order_of_rows_change_nothing() -> None:
    given = arrays(teachers=PAIR)
    loss = evaluate("cepo", given)["loss"]
    names = ("ids", "mask", "student_logits", "behavior", "group", "reward")
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = {name: given[name][order] for name in names}
    shuffled["teacher_logits"] = {name: given["teacher_logits"][name][order] for name in PAIR}
    assert evaluate("cepo", shuffled)["loss"] == pytest.approx(loss, rel=1e-12)

    def wide(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, 4)] + [(0, 0)] * (x.ndim - 2)) if x.ndim >= 2 else x

    padded = {name: wide(given[name]) for name in names}
    padded["teacher_logits"] = {name: wide(given["teacher_logits"][name]) for name in PAIR}
    assert evaluate("cepo", padded)["loss"] == pytest.approx(loss, rel=1e-12)


# --- the fade ----------------------------------------------------------------------------------------------------


def test_lambda_falls_linearly_and_then_no_teacher_is_asked() -> None:
    recipe = CEPO()
    assert [recipe.strength(step) for step in (0, 5, 24, 25, 40)] == pytest.approx([0.5, 0.4, 0.02, 0, 0])
    assert [len(recipe.active(step)) for step in (0, 24, 25, 40)] == [2, 2, 0, 0]
    given = {name: value for name, value in batch().items() if name != "teacher_logits"}
    assert np.isfinite(evaluate("cepo", given, step=25)["loss"])


def test_a_constant_lambda_stays() -> None:
    recipe = with_knobs(CEPO(), {"mix_steps": None})
    assert (recipe.strength(0), recipe.strength(1000)) == (0.5, 0.5)
    assert recipe.active(1000) == PAIR


def test_rlsd_asks_one_teacher() -> None:
    assert tuple(recipe_named("cepo", "rlsd").teachers) == ("right",)


# --- what the teachers read --------------------------------------------------------------------------------------


def group_of(*graded: tuple[float, str | None, str]) -> list[Trajectory]:
    example = WORLDS["table"].train(0)
    return [
        Trajectory.written(example, [1], [2], text, group=0, finished=True, grade=Grade(reward, claim=claim))
        for reward, claim, text in graded
    ]


def read(view: Evidence, group: list[Trajectory]) -> str:
    messages = view(group[0], group, {})
    assert messages is not None
    assert [m["role"] for m in messages] == ["user", "assistant"]
    assert messages[0]["content"] == group[0].example.problem
    return messages[1]["content"].strip()


def test_the_bare_answer_is_spliced_in_where_the_reply_begins() -> None:
    group = group_of((1.0, None, "right"), (0.1, "777", "wrong"))
    assert read(Evidence(), group) == group[0].example.private["answer"]
    assert read(Evidence(wrong=True), group) == "777"


def test_the_wrong_answer_is_the_lowest_rewarded_rollouts_claim_or_its_beginning() -> None:
    group = group_of((0.4, "111", "a"), (0.1, "222", "b"), (0.1, "333", "c"))
    assert read(Evidence(wrong=True), group) == "222"
    group = group_of((1.0, None, "right"), (0.0, None, "x" * 80))
    assert read(Evidence(wrong=True), group) == "x" * 50


def test_a_group_without_a_wrong_rollout_shows_the_right_answer_twice() -> None:
    group = group_of((1.0, None, "right"), (0.9, None, "right too"))
    assert read(Evidence(wrong=True), group) == read(Evidence(), group)


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_presets_hold_the_values_of_readme_script_and_code() -> None:
    paper, script, code, rlsd = (
        recipe_named("cepo", name) for name in ("paper", "released-script", "released-defaults", "rlsd")
    )
    assert isinstance(paper, CEPO)
    assert isinstance(script, CEPO)
    assert isinstance(code, CEPO)
    assert isinstance(rlsd, CEPO)
    assert (paper.mix, paper.mix_steps, paper.clip_weight) == (0.5, 25, 0.5)
    assert (paper.grpo.clip_low, paper.grpo.clip_high, paper.adapter.lora_rank) == (0.2, 0.28, 16)
    assert (paper.optimization.lr, paper.optimization.steps, paper.optimization.prompts) == (5e-6, 50, 32)
    assert script.clip_weight == 0.2
    assert (code.mix, code.mix_steps, code.clip_weight) == (1.0, 100, 0.2)
    assert (rlsd.contrast, rlsd.clip_weight, rlsd.optimization.lr) == ("student", 0.2, 1e-6)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"per_prompt": 1}, "per_prompt"),
        ({"mix": 1.5}, "mix"),
        ({"mix_steps": 0}, "mix_steps"),
        ({"clip_weight": 1.5}, "clip_weight"),
        ({"clip_low": 0.0}, "clip_low"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(CEPO(), knobs)
