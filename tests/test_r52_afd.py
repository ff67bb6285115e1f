"""Card 52: gradients at the old weights, the minimum, what a constant score does, and runs that go on bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from outputs import require_slopes
from selfteach.testing import evaluate_outputs

N, D = 6, 2
Y = np.array([0, 1, 0, 1, 0, 1])
BEST, WORST, EVEN = (np.full(N, w) for w in (1.0, 0.0, 0.5))
Arrays = dict[str, np.ndarray]


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.normal(size=(N, D)) for name in ("v_theta", "v_old", "v_ref", "v")}
    scores = {name: rng.normal(size=N) for name in ("d_teacher", "d_student", "score")}
    return {**vectors, **scores, "y": Y, **changed}


def student(arrays: Arrays, **overrides: Any) -> tuple[float, np.ndarray]:
    """Its loss without the prior, and the gradient in its velocity, n times over: sample by sample."""
    out = evaluate_outputs("afd", arrays, overrides={"prior_weight": 0.0, **overrides})
    return out["losses"]["student"], N * out["grads"]["student"]["v_theta"]


def shares(score: np.ndarray, weights: str, c: float) -> np.ndarray:
    """w by hand."""
    r = np.array([s - score[prompt == Y].mean() for s, prompt in zip(score, Y, strict=True)]).clip(-c, c)
    return (r - r.min()) / (r.max() - r.min()) if weights == "min-max" else 0.5 + r / (2 * c)


@pytest.mark.parametrize("weights", ["min-max", "clipped"])
@pytest.mark.parametrize("c", [5.0, 0.3])
def test_at_the_old_weights_the_gradient_is_signed_flow_matching(weights: str, c: float) -> None:
    """2β (2w − 1)(v_old − v): for w = 1 it is β times flow matching's own, for w = 0 minus that, for w = 1/2 nothing."""
    arrays = given()
    arrays["v_theta"] = arrays["v_old"]
    w = shares(arrays["score"], weights, c)
    _, slope = student(arrays, beta=0.3, weights=weights, adv_clip=c)
    expected = 2 * 0.3 * (2 * w - 1)[:, None] * (arrays["v_old"] - arrays["v"])
    np.testing.assert_allclose(slope, expected, rtol=1e-10, atol=1e-12)
    _, matching = student(arrays, student_loss="sft")
    for many, sign in ((BEST, 1), (WORST, -1), (EVEN, 0)):
        rows = np.isclose(w, many)
        np.testing.assert_allclose(slope[rows], sign * 0.3 * matching[rows], atol=1e-12)


def test_the_minimum_is_a_multiple_of_the_old_error_away_and_not_the_target() -> None:
    arrays, beta = given(), 0.4
    w = shares(arrays["score"], "clipped", 2.0)
    best = arrays["v_old"] + (2 * w - 1)[:, None] * (arrays["v"] - arrays["v_old"]) / beta
    knobs = {"beta": beta, "weights": "clipped", "adv_clip": 2.0}
    least, slope = student({**arrays, "v_theta": best}, **knobs)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    rng = np.random.default_rng(1)
    for _ in range(5):
        assert student({**arrays, "v_theta": best + 0.1 * rng.normal(size=best.shape)}, **knobs)[0] > least
    assert np.abs(student({**arrays, "v_theta": arrays["v"]}, **knobs)[1]).max() > 0.1


def test_with_its_own_velocity_as_the_old_one_what_is_not_preferred_is_fled_without_end() -> None:
    """v_old = v_θ at every step: β (2w − 1) times flow matching's gradient wherever v_θ is, which for w < 1/2 leads
    away from v ever faster; the old copy's minimum holds it."""
    arrays = given()
    w = shares(arrays["score"], "min-max", 5.0)
    now, matching = student(arrays, old="current")[1], student(arrays, student_loss="sft")[1]
    np.testing.assert_allclose(now, 0.1 * (2 * w - 1)[:, None] * matching, rtol=1e-10, atol=1e-12)
    fled, held = (np.array(arrays["v_theta"]) for _ in range(2))
    for _ in range(400):
        fled = fled - student({**arrays, "v_theta": fled}, old="current")[1]
        held = held - student({**arrays, "v_theta": held})[1]
    away = w < 0.4
    assert away.any()
    assert np.abs(fled - arrays["v"])[away].min() > 1e3
    np.testing.assert_allclose(
        held, arrays["v_old"] + (2 * w - 1)[:, None] * (arrays["v"] - arrays["v_old"]) / 0.1, rtol=1e-2
    )


@pytest.mark.parametrize("weights", ["min-max", "clipped"])
def test_a_discriminator_that_tells_nothing_moves_nothing(weights: str) -> None:
    for score in (np.full(N, 1.7), np.where(Y == 0, -3.0, 8.0)):  # nothing but the prompt
        arrays = given(score=score)
        arrays["v_theta"] = arrays["v_old"]
        _, slope = student(arrays, weights=weights)
        np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_what_is_said_of_a_prompt_alone_changes_nothing() -> None:
    arrays, of_prompt = given(), np.where(Y == 0, 4.0, -1.0)
    moved = {
        **arrays,
        **{name: arrays[name] + of_prompt for name in ("d_teacher", "d_student", "score")},
    }
    one, other = (evaluate_outputs("afd", each)["losses"] for each in (arrays, moved))
    assert one == pytest.approx(other, rel=1e-12)


def test_scores_that_are_equal_cost_log_two() -> None:
    arrays = given()
    arrays["d_student"] = arrays["d_teacher"]
    assert evaluate_outputs("afd", arrays)["losses"]["discriminator"] == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("network", "names", "knobs"),
    [
        ("student", ("v_theta",), {}),
        ("student", ("v_theta",), {"weights": "clipped", "adv_clip": 0.5, "prior_weight": 0.3}),
        ("student", ("v_theta",), {"student_loss": "sft"}),
        ("student", ("score",), {"student_loss": "gan"}),
        ("discriminator", ("d_teacher", "d_student"), {}),
        ("discriminator", ("d_teacher", "d_student"), {"discriminator_loss": "logistic"}),
    ],
)
def test_gradients_are_finite_differences(
    network: str, names: tuple[str, ...], knobs: dict[str, Any]
) -> None:
    require_slopes("afd", given(), network, names, **knobs)


def test_the_prior_draws_what_is_preferred_to_where_it_began() -> None:
    arrays = given()
    w = shares(arrays["score"], "min-max", 5.0)
    with_prior, without = (student(arrays, prior_weight=weight)[1] for weight in (0.7, 0.0))
    expected = 2 * 0.7 * w[:, None] * (arrays["v_theta"] - arrays["v_ref"])
    np.testing.assert_allclose(with_prior - without, expected, rtol=1e-10, atol=1e-12)
