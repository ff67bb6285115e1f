"""Card 63: losses of equal branches, of swapped ones and of a discriminator that tells nothing; DMD's gradient; frame
budgets; runs that go on bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from outputs import require_slopes
from selfteach.testing import evaluate_outputs

N, D = 5, 4
Arrays = dict[str, np.ndarray]
VECTORS = ("x", "x0_real", "x0_fake", "slope_n", "slope_more", "eps_fake", "eps")


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.normal(size=(N, D)) for name in VECTORS}
    scores = {name: rng.normal(size=N) for name in ("d_n", "d_more")}
    return {**vectors, **scores, "t": rng.uniform(0.2, 0.9, size=N), **changed}


def losses(arrays: Arrays, **overrides: Any) -> dict[str, float]:
    return evaluate_outputs("asd", arrays, overrides=overrides)["losses"]


def test_branches_of_equal_scores_cost_log_two_either_way() -> None:
    arrays = given()
    arrays["d_more"] = arrays["d_n"]
    found = losses(arrays, dmd_weight=0.0, penalty=0.0)
    assert found["student"] == pytest.approx(math.log(2), abs=1e-12)
    assert found["discriminator"] == pytest.approx(math.log(2), abs=1e-12)


def test_branches_that_change_places_turn_one_loss_into_the_other() -> None:
    arrays = given()
    swapped = {**arrays, "d_n": arrays["d_more"], "d_more": arrays["d_n"]}
    one, other = (losses(each, dmd_weight=0.0, penalty=0.0) for each in (arrays, swapped))
    assert one["discriminator"] == pytest.approx(other["student"], rel=1e-12)
    assert one["student"] == pytest.approx(other["discriminator"], rel=1e-12)


def test_the_student_wants_to_be_taken_for_more_steps_and_its_discriminator_not_to_be_fooled() -> None:
    """The sign that is easily turned: each raises the score of what it wants preferred."""
    grads = evaluate_outputs("asd", given(), overrides={"penalty": 0.0})["grads"]
    assert (grads["student"]["d_n"] < 0).all()
    assert "d_more" not in grads["student"]
    assert (grads["discriminator"]["d_more"] < 0).all()
    assert (grads["discriminator"]["d_n"] > 0).all()


def test_a_discriminator_without_slopes_is_not_punished() -> None:
    flat = given(slope_n=np.zeros((N, D)), slope_more=np.zeros((N, D)))
    assert losses(flat, penalty=9.0)["discriminator"] == losses(flat, penalty=0.0)["discriminator"]
    steep = given()
    added = losses(steep, penalty=2.0)["discriminator"] - losses(steep, penalty=0.0)["discriminator"]
    squares = [(steep[name] ** 2).sum(1).mean() for name in ("slope_n", "slope_more")]
    assert added == pytest.approx(sum(squares), rel=1e-12)


@pytest.mark.parametrize("scale", ["distance", "score"])
def test_equal_scores_of_teacher_and_student_move_nothing(scale: str) -> None:
    arrays = given()
    arrays["x0_fake"] = arrays["x0_real"]
    out = evaluate_outputs("asd", arrays, overrides={"dmd_scale": scale, "adversarial_weight": 0.0})
    assert not out["grads"]["student"]["x"].any()


def test_the_gradient_is_the_difference_of_scores() -> None:
    """s(x_t) = ((1 − t) x0 − x_t)/t² of each; divided by the mean distance of sample and teacher it is DMD's step."""
    arrays = given()
    t, x_t = arrays["t"][:, None], np.random.default_rng(3).normal(size=(N, D))
    real, fake = (((1 - t) * arrays[name] - x_t) / t**2 for name in ("x0_real", "x0_fake"))
    plain = evaluate_outputs("asd", arrays, overrides={"dmd_scale": "score"})["grads"]["student"]["x"]
    np.testing.assert_allclose(N * plain, -(real - fake), rtol=1e-10)
    scaled = evaluate_outputs("asd", arrays)["grads"]["student"]["x"]
    distance = np.abs(arrays["x"] - arrays["x0_real"]).mean(1, keepdims=True)
    np.testing.assert_allclose(N * scaled, -(real - fake) * t**2 / (1 - t) / distance, rtol=1e-10)


@pytest.mark.parametrize(
    ("network", "names", "knobs"),
    [
        ("student", ("d_n",), {"dmd_weight": 0.0, "adversarial_weight": 0.7}),
        ("discriminator", ("d_n", "d_more", "slope_n", "slope_more"), {"penalty": 0.3}),
        ("fake", ("eps_fake",), {}),
    ],
)
def test_gradients_are_finite_differences(
    network: str, names: tuple[str, ...], knobs: dict[str, Any]
) -> None:
    require_slopes("asd", given(), network, names, **knobs)
