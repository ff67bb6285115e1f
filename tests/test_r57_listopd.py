"""Card 57: the cliff of extrapolation, and the guard before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arrays import arrays
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r57_listopd import scale_limit
from selfteach.testing import evaluate


def logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


@pytest.mark.parametrize("p", [0.9, 0.99, 0.99934])
@pytest.mark.parametrize("b", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("c", [1.0, 1.2, 5.0])
def test_at_the_limit_the_tail_keeps_just_what_the_cap_can_bring_back(p: float, b: float, c: float) -> None:
    scale = scale_limit(p, b, c)
    extrapolated = (1 - scale) * logit(b) + scale * logit(p)
    tail = 1 / (1 + math.exp(extrapolated))
    assert tail == pytest.approx((1 - p) / c, rel=1e-9)
    if c == 1:
        assert scale == pytest.approx(1.0)


def test_the_cards_numbers() -> None:
    assert scale_limit(0.99934, 0.5, 5.0) == pytest.approx(1.22, abs=0.001)
    assert scale_limit(0.99934, 0.5, 1.2) == pytest.approx(1.025, abs=0.001)


def test_it_rises_with_the_cap_and_falls_to_one_as_the_teacher_grows_sure() -> None:
    caps = [scale_limit(0.99, 0.5, c) for c in (1.0, 2.0, 5.0, 20.0)]
    assert caps == sorted(caps)
    sure = [scale_limit(p, 0.5, 5.0) for p in (0.9, 0.99, 0.999, 1 - 1e-9)]
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] == pytest.approx(1 + math.log(5) / logit(1 - 1e-9), rel=1e-3)


@pytest.mark.parametrize("b", [0.95, 0.9, 0.99])
def test_a_reference_that_is_surer_sets_no_limit(b: float) -> None:
    assert scale_limit(0.9, b, 5.0) == math.inf


@pytest.mark.parametrize("numbers", [(0.0, 0.5, 5.0), (1.0, 0.5, 5.0), (0.9, 1.0, 5.0), (0.9, 0.5, 0.9)])
def test_what_is_no_probability_or_cap_is_refused(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        scale_limit(*numbers)


def test_a_scale_beyond_the_cliff_is_refused_and_one_below_it_taken() -> None:
    known = {"teacher_modal": 0.99934}
    with pytest.raises(UserError, match=r"not below 1\.220"):
        with_knobs(recipe_named("listopd"), {**known, "reward_scale": 1.25})
    with_knobs(recipe_named("listopd"), {**known, "reward_scale": 1.21})
    with_knobs(recipe_named("listopd"), {**known, "reward_scale": 1.25, "is_cap": None})


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_the_loss_is_exopds(scale: float) -> None:
    given = arrays(teachers=("teacher", "reference") if scale != 1 else ("teacher",))
    one, other = (evaluate(name, given, overrides={"reward_scale": scale}) for name in ("listopd", "exopd"))
    assert one["loss"] == other["loss"]
    np.testing.assert_array_equal(one["grad"], other["grad"])


def sure_of_three(dtype: Any = np.float64) -> dict[str, Any]:
    """A batch whose teacher is nearly sure of the first three tokens of each row."""
    given = arrays(teachers=("teacher", "reference"))
    given["teacher_logits"]["teacher"][:, :3] *= 100
    given["student_logits"] = given["student_logits"].astype(dtype)
    given["teacher_logits"] = {name: x.astype(dtype) for name, x in given["teacher_logits"].items()}
    return given


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_meter_says_how_sure_both_are_where_the_format_decides(dtype: Any) -> None:
    given = sure_of_three(dtype)
    metrics = evaluate("listopd", given)["metrics"]
    logits = [given["teacher_logits"][name].astype(np.float64) for name in ("teacher", "reference")]
    teacher, reference = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in logits)
    likeliest = teacher.argmax(-1)[..., None]
    tails = []
    for x in (teacher, reference):
        others = x.copy()
        np.put_along_axis(others, likeliest, -np.inf, -1)
        tails.append(np.exp(others).sum(-1))
    chosen = given["mask"] & (tails[0] <= 0.01)
    assert 0 < chosen.sum() < given["mask"].sum()
    p, b = (1 - one[chosen].mean() for one in tails)
    assert 1 - metrics["extrapolation/teacher_modal"] == pytest.approx(max(1 - p, 1e-12), rel=1e-3)
    assert metrics["extrapolation/reference_modal"] == pytest.approx(b, rel=1e-5)
    assert metrics["extrapolation/limit"] == pytest.approx(scale_limit(p, b, 5.0), rel=1e-4)


def test_the_meter_never_ends_a_run_however_sure_the_teacher_is() -> None:
    given = sure_of_three(np.float32)
    given["teacher_logits"]["teacher"][:, :3] *= 100
    metrics = evaluate("listopd", given)["metrics"]
    assert metrics["extrapolation/teacher_modal"] < 1
    assert math.isfinite(metrics["extrapolation/limit"])


def test_without_extrapolation_it_measures_the_teacher_so_that_a_scale_can_be_chosen() -> None:
    given = sure_of_three()
    del given["teacher_logits"]["reference"]
    metrics = evaluate("listopd", given, overrides={"reward_scale": 1.0})["metrics"]
    assert metrics["extrapolation/reference_modal"] == 0.5
    assert metrics["extrapolation/limit"] == scale_limit(metrics["extrapolation/teacher_modal"], 0.5, 5.0)


def test_the_whole_distribution_cuts_no_weights_and_has_no_limit() -> None:
    known = {"teacher_modal": 0.99999, "reward_scale": 2.0, "estimator": "full"}
    assert "extrapolation/limit" not in evaluate("listopd", sure_of_three(), overrides=known)["metrics"]


def test_a_cap_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="is_cap"):
        with_knobs(recipe_named("listopd"), {"is_cap": 0.5})
