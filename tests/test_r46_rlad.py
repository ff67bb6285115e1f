"""Card 46: what the paper says RLAD is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, mean_of_sequences, slopes
from selfteach.testing import evaluate

LOW, HIGH, EPS = 0.2, 0.28, 1e-4
FREE = {"log_ratio_clamp": None}


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def advantage(given: dict[str, Any]) -> np.ndarray:
    """[N, 1] by the population's deviation."""
    found = np.zeros(len(given["reward"]))
    for group in set(given["group"]):
        rows = given["group"] == group
        r = given["reward"][rows]
        found[rows] = (r - r.mean()) / (r.std() + EPS)
    return found[:, None]


def log_ratio(
    given: dict[str, Any], alpha: float, clamp: float | None, logits: np.ndarray | None = None
) -> np.ndarray:
    own = taken(given["student_logits"] if logits is None else logits, given["ids"])
    gap = own - taken(given["teacher_logits"]["teacher"], given["ids"])
    if clamp is not None:
        gap = gap.clip(-clamp, clamp)
    return alpha * (own - given["behavior"]) + (1 - alpha) * gap


def loss(
    given: dict[str, Any], alpha: float = 0.5, clamp: float | None = 1.0, logits: np.ndarray | None = None
) -> float:
    r, a = np.exp(log_ratio(given, alpha, clamp, logits)), advantage(given)
    return mean_of_sequences(-np.minimum(r * a, r.clip(1 - LOW, 1 + HIGH) * a), given["mask"])


def near(seed: int = 0) -> dict[str, Any]:
    """A batch whose ratios lie on both sides of clip and clamp."""
    given = arrays(seed)
    rng = np.random.default_rng(seed + 1)
    own = taken(given["student_logits"], given["ids"])
    given["teacher_logits"] = {
        "teacher": given["student_logits"] + 0.7 * rng.normal(size=given["student_logits"].shape)
    }
    given["behavior"] = own + 0.3 * rng.normal(size=own.shape)
    return given


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("clamp", [1.0, 0.4, None])
def test_the_loss_is_the_cards(alpha: float, clamp: float | None) -> None:
    given = near()
    out = evaluate("rlad", given, overrides={"alpha": alpha, "log_ratio_clamp": clamp})
    assert out["loss"] == pytest.approx(loss(given, alpha, clamp), rel=1e-12)


@pytest.mark.parametrize("clamp", [0.4, None])
def test_the_gradient_is_that_of_finite_differences(clamp: float | None) -> None:
    given = near()
    out = evaluate("rlad", given, overrides={"log_ratio_clamp": clamp})["grad"]
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, 0.5, clamp, moved)):
        assert slope == pytest.approx(out[place], abs=1e-8)


def test_an_alpha_of_one_is_grpo_and_asks_no_teacher() -> None:
    given = near()
    del given["teacher_logits"]
    grpo = {"kl": 0.0, "clip_high": HIGH, "scale": "population"}
    one, other = evaluate("rlad", given, overrides={"alpha": 1.0}), evaluate("grpo", given, overrides=grpo)
    assert one["loss"] == other["loss"]
    np.testing.assert_array_equal(one["grad"], other["grad"])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5])
def test_a_teacher_that_is_the_sampling_policy_makes_it_grpo_for_every_alpha(alpha: float) -> None:
    given = near()
    given["behavior"] = taken(given["teacher_logits"]["teacher"], given["ids"])
    grpo = evaluate(
        "grpo",
        {k: v for k, v in given.items() if k != "teacher_logits"},
        overrides={"kl": 0.0, "clip_high": HIGH, "scale": "population"},
    )
    out = evaluate("rlad", given, overrides={"alpha": alpha, **FREE})
    assert out["loss"] == pytest.approx(grpo["loss"], rel=1e-12)
    np.testing.assert_allclose(out["grad"], grpo["grad"], atol=1e-13)


def test_nothing_is_imitated_where_the_advantage_is_nothing() -> None:
    given = {**near(), "reward": np.ones(6)}
    out = evaluate("rlad", given)
    assert out["loss"] == 0
    assert not out["grad"].any()


@pytest.mark.parametrize("how", ["stop", "pass"])
def test_where_the_clamp_acts_its_factor_has_no_gradient_or_keeps_it(how: str) -> None:
    given, alpha = near(), 0.5
    out = evaluate("rlad", given, overrides={"log_ratio_clamp": 0.4, "clamp_gradient": how})["grad"]
    own = taken(given["student_logits"], given["ids"])
    gap = own - taken(given["teacher_logits"]["teacher"], given["ids"])
    r, a = np.exp(log_ratio(given, alpha, 0.4)), advantage(given) * np.ones_like(own)
    unclipped = np.where(a >= 0, r < 1 + HIGH, r > 1 - LOW)
    factor = np.where((np.abs(gap) > 0.4) & (how == "stop"), alpha, 1.0)
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    mask = given["mask"]
    weight = mask / mask.sum(1, keepdims=True) / len(mask)
    expected = -(weight * unclipped * r * a * factor)[..., None] * score
    np.testing.assert_allclose(out, expected, atol=1e-13)
    assert (np.abs(gap[mask]) > 0.4).any(), "the clamp acts nowhere: this test shows nothing"


def test_with_the_clamp_the_teachers_factor_is_bounded() -> None:
    given = near()
    given["teacher_logits"] = {"teacher": 50 * given["teacher_logits"]["teacher"]}
    alone = {**given, "behavior": taken(given["student_logits"], given["ids"])}
    r = np.exp(log_ratio(alone, 0.5, 1.0))[given["mask"]]
    assert r.min() >= np.exp(-0.5) - 1e-12
    assert r.max() <= np.exp(0.5) + 1e-12
    assert evaluate("rlad", alone)["loss"] == pytest.approx(loss(alone), rel=1e-12)


def test_unclamped_a_constant_may_move_from_the_sampling_policy_to_the_teacher() -> None:
    """log π_old + c and log π_T − c α / (1 − α) leave the anchor as it is."""
    given, alpha, c = near(), 0.4, 0.2
    scores = taken(given["teacher_logits"]["teacher"], given["ids"])
    del given["teacher_logits"]
    moved = {**given, "behavior": given["behavior"] + c}
    one, other = (
        evaluate(
            "rlad", {**batch, "teacher_log_probs": {"teacher": said}}, overrides={"alpha": alpha, **FREE}
        )
        for batch, said in ((given, scores), (moved, scores - c * alpha / (1 - alpha)))
    )
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-12)
    np.testing.assert_allclose(other["grad"], one["grad"], atol=1e-13)


def test_the_advantage_is_written_down_for_the_token_view() -> None:
    given = near()
    found = evaluate("rlad", given)["token"]["advantage/policy"]
    np.testing.assert_allclose(
        found[given["mask"]], (advantage(given) * np.ones((6, 9)))[given["mask"]], atol=1e-12
    )
