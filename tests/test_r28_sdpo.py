"""Card 28: what the paper says SDPO is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r28_sdpo import SDPO
from selfteach.roles.sibling import Reprompt
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import EMA, Frozen, Live
from selfteach.task.arena import WORLDS, model_folder
from selfteach.task.example import Grade
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

FULL = {"student_top_k": None, "is_clip": None}
REVERSE = {**FULL, "alpha": 1.0}
SAMPLED = {**REVERSE, "loss": "sampled"}


def on_policy(given: dict[str, Any]) -> dict[str, Any]:
    """The same batch, sampled by the student itself: every importance ratio is 1."""
    return {**given, "behavior": sampled(given, log_softmax(given["student_logits"]))}


def sampled(given: dict[str, Any], log_probs: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_probs, given["ids"][..., None], -1)[..., 0]


def both(given: dict[str, Any], teacher: str = "teacher") -> tuple[np.ndarray, np.ndarray]:
    return log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"][teacher])


def divergence(p: np.ndarray, q: np.ndarray, alpha: float) -> np.ndarray:
    if alpha in (0, 1):
        a, b = (q, p) if alpha == 0 else (p, q)
        return (np.exp(a) * (a - b)).sum(-1)
    m = np.log((1 - alpha) * np.exp(p) + alpha * np.exp(q))
    return ((1 - alpha) * np.exp(p) * (p - m) + alpha * np.exp(q) * (q - m)).sum(-1)


def cut(p: np.ndarray, q: np.ndarray, k: int, tail: str = "bucket") -> tuple[np.ndarray, np.ndarray]:
    top = np.argsort(-p, axis=-1)[..., :k]
    kept = []
    for x in (p, q):
        inside = np.take_along_axis(x, top, -1)
        rest = np.log1p(-np.exp(inside).sum(-1, keepdims=True))
        kept.append(np.concatenate([inside, rest], -1) if tail == "bucket" else log_softmax(inside))
    return kept[0], kept[1]


def token_mean(per_token: np.ndarray, mask: np.ndarray) -> float:
    return float((per_token * mask).sum() / mask.sum())


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_default_is_the_papers_weighted_jsd_on_the_students_top_k_and_a_bucket() -> None:
    given = arrays()
    p, q = both(given)
    ratio = np.minimum(np.exp(sampled(given, p) - given["behavior"]), 2.0)
    for k in (3, 5):
        expected = token_mean(ratio * divergence(*cut(p, q, k), 0.5), given["mask"])
        assert evaluate("sdpo", given, overrides={"student_top_k": k})["loss"] == pytest.approx(
            expected, rel=1e-10
        )
    # Thirteen tokens are fewer than the paper's hundred: then nothing is cut.
    expected = token_mean(ratio * divergence(p, q, 0.5), given["mask"])
    assert evaluate("sdpo", given)["loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
def test_alpha_goes_from_forward_kl_over_jsd_to_reverse_kl(alpha: float) -> None:
    given = arrays()
    expected = token_mean(divergence(*both(given), alpha), given["mask"])
    assert evaluate("sdpo", given, overrides={**FULL, "alpha": alpha})["loss"] == pytest.approx(
        expected, rel=1e-12
    )


def test_the_reverse_kls_gradient_is_the_logit_level_policy_gradient_of_proposition_2_1() -> None:
    given = arrays()
    p, q = both(given)
    kl = divergence(p, q, 1.0)[..., None]
    expected = np.exp(p) * (p - q - kl) * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(evaluate("sdpo", given, overrides=REVERSE)["grad"], expected, atol=1e-13)


def test_the_forward_kls_gradient_is_p_minus_q() -> None:
    given = arrays()
    p, q = both(given)
    expected = (np.exp(p) - np.exp(q)) * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(
        evaluate("sdpo", given, overrides={**FULL, "alpha": 0.0})["grad"], expected, atol=1e-13
    )


@pytest.mark.parametrize(
    "knobs", [{"student_top_k": 4}, {**REVERSE, "student_top_k": 4}, {"weights": "live"}]
)
def test_the_gradient_is_that_of_finite_differences(knobs: dict[str, Any]) -> None:
    given = arrays()
    knobs = {**knobs, "is_clip": None}  # the importance ratio is a constant, which a difference would see
    gradient = evaluate("sdpo", given, overrides=knobs)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("sdpo", {**given, "student_logits": moved}, overrides=knobs)["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_the_top_k_loss_never_falls_with_k_and_reaches_the_full_one_at_v_minus_1() -> None:
    given = arrays()
    losses = [
        evaluate("sdpo", given, overrides={**REVERSE, "student_top_k": k})["loss"]
        for k in range(1, VOCABULARY + 1)
    ]
    assert (np.diff(losses) >= -1e-13).all()
    full = evaluate("sdpo", given, overrides=REVERSE)["loss"]
    assert losses[-1] == pytest.approx(full, rel=1e-12)
    assert losses[-2] == pytest.approx(full, rel=1e-12)


def test_renormalized_top_k_may_exceed_the_full_divergence_and_says_nothing_at_one_token() -> None:
    given = arrays()
    p, q = both(given)
    knobs = {**REVERSE, "student_top_k": 3, "tail": "renormalize"}
    out = evaluate("sdpo", given, overrides=knobs)
    assert out["loss"] == pytest.approx(
        token_mean(divergence(*cut(p, q, 3, "no"), 1.0), given["mask"]), rel=1e-10
    )
    per_token = out["token"]["loss/distill"]
    assert (per_token > divergence(p, q, 1.0) + 1e-3)[given["mask"]].any()
    with pytest.raises(UserError, match="always 0"):
        with_knobs(SDPO(), {"student_top_k": 1, "tail": "renormalize"})


def test_the_jsd_of_a_token_is_at_most_log_two() -> None:
    given = arrays()
    given["teacher_logits"]["teacher"] = 40 * given["teacher_logits"]["teacher"]
    per_token = evaluate("sdpo", given, overrides=FULL)["token"]["loss/distill"]
    assert 0.5 < np.nanmax(per_token) <= np.log(2) + 1e-12


@pytest.mark.parametrize(
    "knobs", [{}, REVERSE, SAMPLED, {**REVERSE, "loss": "sequence"}, {"student_top_k": 3}]
)
def test_a_live_teacher_without_feedback_teaches_nothing(knobs: dict[str, Any]) -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("sdpo", given, overrides=knobs)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


@pytest.mark.parametrize(
    "knobs", [{}, REVERSE, SAMPLED, {**REVERSE, "loss": "sequence"}, {"student_top_k": 3}]
)
def test_changing_the_teacher_changes_the_gradient(knobs: dict[str, Any]) -> None:
    given = arrays()
    teacher = given["teacher_logits"]["teacher"] + 0.1 * np.arange(VOCABULARY)
    other = {**given, "teacher_logits": {"teacher": teacher}}
    a, b = (evaluate("sdpo", x, overrides=knobs)["grad"] for x in (given, other))
    assert np.abs(a - b).max() > 1e-4


def test_the_sampled_token_gives_the_reverse_kls_gradient_in_expectation() -> None:
    given = arrays()
    p, q = both(given)
    mean = np.zeros_like(given["student_logits"])
    for token in range(VOCABULARY):
        ids = np.full_like(given["ids"], token)
        out = evaluate("sdpo", {**given, "ids": ids}, overrides=SAMPLED)
        mean += np.exp(p[..., token : token + 1]) * out["grad"]
        advantage = (q - p)[..., token]
        expected = token_mean(-advantage * p[..., token], given["mask"])
        assert out["loss"] == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(mean, evaluate("sdpo", given, overrides=REVERSE)["grad"], atol=1e-12)


def test_sequence_credit_gives_every_token_the_answers_mean_advantage() -> None:
    given = arrays()
    p, q = both(given)
    mask, advantage = given["mask"], sampled(given, q - p)
    mean = (advantage * mask).sum(1) / mask.sum(1)
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(p)
    expected = -mean[:, None, None] * score * mask[..., None] / mask.sum()
    out = evaluate("sdpo", given, overrides={**REVERSE, "loss": "sequence"})
    np.testing.assert_allclose(out["grad"], expected, atol=1e-13)


def test_clipped_advantages_bound_what_a_token_may_gain() -> None:
    given = arrays()
    p, q = both(given)
    advantage = np.clip(q - p, -0.5, 0.5)
    mean = (np.exp(p) * advantage).sum(-1, keepdims=True)
    expected = -np.exp(p) * (advantage - mean) * given["mask"][..., None] / given["mask"].sum()
    out = evaluate("sdpo", given, overrides={**REVERSE, "clip_advantage": 0.5})
    np.testing.assert_allclose(out["grad"], expected, atol=1e-13)
    loose = evaluate("sdpo", given, overrides={**REVERSE, "clip_advantage": 1e3})
    np.testing.assert_allclose(loose["grad"], evaluate("sdpo", given, overrides=REVERSE)["grad"], atol=1e-13)


def test_the_temperature_divides_both_sides() -> None:
    given = arrays()
    p, q = (log_softmax(x, 0.7) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    loss = evaluate("sdpo", given, overrides={**FULL, "temperature": 0.7})["loss"]
    assert loss == pytest.approx(token_mean(divergence(p, q, 0.5), given["mask"]), rel=1e-12)


# --- who counts, and how much ------------------------------------------------------------------------------------


def test_rollouts_without_feedback_count_neither_above_nor_below_the_line() -> None:
    given = arrays()
    seen = np.array([True, False, True, True, False, False])
    given["available"] = {"teacher": seen}
    p, q = both(given)
    out = evaluate("sdpo", given, overrides=FULL)
    assert out["loss"] == pytest.approx(
        token_mean(divergence(p, q, 0.5), given["mask"] & seen[:, None]), rel=1e-12
    )
    assert (out["grad"][~seen] == 0).all()
    assert evaluate("sdpo", {**given, "available": {"teacher": ~seen & seen}})["loss"] == 0


def test_the_released_mean_takes_each_rollouts_mean_and_counts_those_without_feedback_as_0() -> None:
    given = arrays()
    seen = np.array([True, False, True, True, False, False])
    given["available"] = {"teacher": seen}
    mask = given["mask"]
    each = (divergence(*both(given), 0.5) * mask).sum(1) / mask.sum(1)
    out = evaluate("sdpo", given, overrides={**FULL, "mean_over": "rollouts"})
    assert out["loss"] == pytest.approx(float((each * seen).mean()), rel=1e-12)


def test_the_importance_weight_is_capped_and_has_no_gradient() -> None:
    given = arrays()
    p, q = both(given)
    ratio = np.exp(sampled(given, p) - given["behavior"])
    assert (ratio[given["mask"]] > 0.1).any()
    kl = divergence(p, q, 1.0)
    out = evaluate("sdpo", given, overrides={**REVERSE, "is_clip": 0.1})
    weight = np.minimum(ratio, 0.1) * given["mask"] / given["mask"].sum()
    assert out["loss"] == pytest.approx(float((weight * kl).sum()), rel=1e-10)
    np.testing.assert_allclose(
        out["grad"], weight[..., None] * np.exp(p) * (p - q - kl[..., None]), atol=1e-13
    )


@pytest.mark.parametrize(("which", "right"), [("right", True), ("wrong", False)])
def test_distillation_may_be_kept_to_right_or_wrong_rollouts(which: str, right: bool) -> None:
    given = arrays()
    rows = (given["reward"] >= 0.5) == right
    out = evaluate("sdpo", given, overrides={**FULL, "distill": which})
    expected = token_mean(divergence(*both(given), 0.5), given["mask"] & rows[:, None])
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


def test_the_mixed_advantage_is_lambda_grpo_without_deviation_plus_the_rest_sdpo() -> None:
    given = on_policy(arrays())
    p, q = both(given)
    mask = given["mask"][..., None] / given["mask"].sum()
    centered = given["reward"] - np.array([1 / 3] * 3 + [2 / 3] * 3)
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(p)
    reinforced = -centered[:, None, None] * score * mask
    distilled = np.exp(p) * (p - q - divergence(p, q, 1.0)[..., None]) * mask
    out = evaluate("sdpo", given, overrides={**REVERSE, "grpo_share": 0.9})
    np.testing.assert_allclose(out["grad"], 0.9 * reinforced + 0.1 * distilled, atol=1e-13)
    pure = evaluate("sdpo", given, overrides={**REVERSE, "grpo_share": 1.0})
    np.testing.assert_allclose(pure["grad"], reinforced, atol=1e-13)


def test_padding_and_the_order_of_rows_change_nothing() -> None:
    given = arrays()
    loss = evaluate("sdpo", given)["loss"]
    order = np.array([3, 0, 5, 1, 4, 2])
    names = ("ids", "mask", "student_logits", "behavior", "group", "reward")
    shuffled = {name: given[name][order] for name in names}
    shuffled["teacher_logits"] = {"teacher": given["teacher_logits"]["teacher"][order]}
    assert evaluate("sdpo", shuffled)["loss"] == pytest.approx(loss, rel=1e-13)

    def wide(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, 4)] + [(0, 0)] * (x.ndim - 2)) if x.ndim >= 2 else x

    padded = {name: wide(given[name]) for name in names}
    padded["teacher_logits"] = {"teacher": wide(given["teacher_logits"]["teacher"])}
    assert evaluate("sdpo", padded)["loss"] == pytest.approx(loss, rel=1e-13)


# --- whose opinion -----------------------------------------------------------------------------------------------


def test_a_trust_region_of_rate_0_is_the_frozen_teacher_and_of_rate_1_the_live_one() -> None:
    given = arrays(teachers=("teacher", "reference"))
    for rate, name in ((0.0, "reference"), (1.0, "teacher")):
        region = evaluate("sdpo", given, overrides={"weights": "trust-region", "update_rate": rate})
        alone = evaluate("sdpo", {**given, "teacher_logits": {"teacher": given["teacher_logits"][name]}})
        assert region["loss"] == pytest.approx(alone["loss"], rel=1e-12)
        np.testing.assert_allclose(region["grad"], alone["grad"], atol=1e-13)


def test_a_trust_region_interpolates_logits() -> None:
    given = arrays(teachers=("teacher", "reference"))
    live, frozen = given["teacher_logits"]["teacher"], given["teacher_logits"]["reference"]
    region = evaluate("sdpo", given, overrides={"weights": "trust-region", "update_rate": 0.3})
    lerped = evaluate("sdpo", {**given, "teacher_logits": {"teacher": frozen + 0.3 * (live - frozen)}})
    assert region["loss"] == pytest.approx(lerped["loss"], rel=1e-12)


def test_both_teachers_of_a_trust_region_read_the_same_and_differ_in_weights() -> None:
    teachers = recipe_named("sdpo", "trust-region").teachers
    assert teachers["teacher"].view == teachers["reference"].view
    assert (teachers["teacher"].weights, teachers["reference"].weights) == (Live(), Frozen())


def test_the_average_starts_at_the_initial_weights_and_takes_a_share_of_each_step() -> None:
    student = load_policy(str(model_folder("table")))
    specs = {
        rate: with_knobs(SDPO(), {"update_rate": rate}).teachers["teacher"].weights for rate in (0.05, 1.0)
    }
    store = WeightStore({"policy": student})
    store.enter(specs.values())
    with torch.no_grad():
        for parameter in student.trainable().values():
            parameter.add_(1.0)
    store.after_step()
    for rate, spec in specs.items():
        with store.scoring(spec) as policy:
            for name, tensor in policy.model.named_parameters():
                expected = student.trainable()[name].detach() - (1 - rate)
                torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)
    assert specs[0.05] == EMA(0.95, from_start=True)


# --- what the teacher reads --------------------------------------------------------------------------------------


def rollouts(*rewards: float, feedback: str | None = None) -> list[Trajectory]:
    example = WORLDS["table"].train(0)
    return [
        Trajectory.written(
            example, [1], [2], f"answer {i}", group=0, finished=True, grade=Grade(reward, feedback)
        )
        for i, reward in enumerate(rewards)
    ]


def shown(recipe: SDPO, group: list[Trajectory], i: int) -> str | None:
    view = recipe.teachers["teacher"].view
    assert isinstance(view, Reprompt)
    messages = view(group[i], group, {})
    return None if messages is None else messages[-1]["content"]


def test_the_teacher_reads_the_first_right_sibling_and_never_the_attempt_itself() -> None:
    group = rollouts(0, 1, 1, feedback="too big")
    wrong, first, second = (shown(SDPO(), group, i) for i in range(3))
    assert wrong is not None
    assert "answer 1" in wrong
    assert "answer 0" not in wrong
    assert "too big" not in wrong
    assert first is not None
    assert "answer 2" in first
    assert second is not None
    assert "answer 1" in second


def test_section_4_shows_feedback_and_sibling_together_and_ttt_the_feedback_alone() -> None:
    group = rollouts(0, 1, feedback="too big")
    rich, alone = (shown(recipe_named("sdpo", name), group, 0) for name in ("sec4", "ttt"))  # type: ignore[arg-type]
    assert rich is not None
    assert alone is not None
    assert "answer 1" in rich
    assert "too big" in rich
    assert "answer 1" not in alone
    assert "too big" in alone


def test_without_a_right_sibling_and_feedback_there_is_nothing_to_read() -> None:
    assert shown(SDPO(), rollouts(0, 0, feedback="too big"), 0) is None
    assert shown(SDPO(), rollouts(0, 1), 1) is None
    assert shown(with_knobs(SDPO(), {"own_success": True}), rollouts(0, 1), 1) is not None


@pytest.mark.parametrize(("which", "readers"), [("all", [0, 1, 2]), ("wrong", [0]), ("right", [1, 2])])
def test_only_the_rollouts_that_are_distilled_get_a_teacher(which: str, readers: list[int]) -> None:
    group, recipe = rollouts(0, 1, 1), with_knobs(SDPO(), {"distill": which})
    assert [i for i in range(3) if shown(recipe, group, i) is not None] == readers


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_presets_hold_the_papers_values() -> None:
    sec3, sec4, ttt, trl = (recipe_named("sdpo", name) for name in ("sec3", "sec4", "ttt", "trl"))
    assert isinstance(sec3, SDPO)
    assert isinstance(sec4, SDPO)
    assert isinstance(ttt, SDPO)
    assert isinstance(trl, SDPO)
    assert (sec3.alpha, sec3.student_top_k, sec3.update_rate, sec3.is_clip) == (0.5, 100, 0.05, 2.0)
    assert (sec3.optimization.lr, sec3.optimization.warmup, sec3.optimization.weight_decay) == (
        1e-5,
        10,
        0.01,
    )
    assert (sec3.optimization.prompts, sec3.rollouts.per_prompt, sec3.rollouts.max_tokens) == (32, 8, 8192)
    assert (sec4.alpha, sec4.student_top_k, sec4.update_rate, sec4.feedback) == (1.0, 20, 0.01, "always")
    assert (sec4.optimization.lr, sec4.optimization.warmup) == (1e-6, 0)
    assert (ttt.optimization.prompts, ttt.rollouts.per_prompt, ttt.clip_advantage) == (1, 16, 5.0)
    assert (trl.loss, trl.alpha, trl.update_rate) == ("sampled", 1.0, 0.05)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"update_rate": -0.1}, "update_rate"),
        ({"grpo_share": 2.0}, "grpo_share"),
        ({"is_clip": 0.0}, "is_clip"),
        ({"sibling": False}, "bare question"),
        ({"per_prompt": 1}, "per_prompt"),
        ({"loss": "sampled"}, "set alpha 1"),
        ({"loss": "sequence", "alpha": 1.0, "student_top_k": None, "weights": "trust-region"}, "one teacher"),
        ({"clip_advantage": 5.0}, "clip_advantage"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SDPO(), knobs)


@pytest.mark.parametrize("mean_over", ["tokens", "rollouts"])
@pytest.mark.parametrize("loss", ["sequence", "sampled"])
def test_tokens_that_the_teacher_did_not_see_are_neither_read_nor_averaged(loss: str, mean_over: str) -> None:
    given = arrays()
    seen = np.arange(given["mask"].shape[1]) < 2
    knobs = {**REVERSE, "loss": loss, "mean_over": mean_over}
    part = {**given, "available": {"teacher": np.broadcast_to(seen, given["mask"].shape)}}
    short = {**given, "mask": given["mask"] & seen}
    ours, theirs = (evaluate("sdpo", one, overrides=knobs) for one in (part, short))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
    np.testing.assert_allclose(ours["grad"], theirs["grad"], atol=1e-14)
