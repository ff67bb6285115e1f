"""Card 57: the cliff of extrapolation, and the guard before it."""

from __future__ import annotations

import math

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


def test_the_meter_says_how_sure_both_are_where_the_format_decides() -> None:
    given = arrays(teachers=("teacher", "reference"))
    given["teacher_logits"]["teacher"][:, :3] *= 100  # sure of the first three tokens of each row
    out = evaluate("listopd", given)
    teacher, reference = (given["teacher_logits"][name] for name in ("teacher", "reference"))
    q, r = (np.exp(x - np.logaddexp.reduce(x, axis=-1, keepdims=True)) for x in (teacher, reference))
    likeliest = q.argmax(-1)[..., None]
    p, b = (np.take_along_axis(x, likeliest, -1)[..., 0] for x in (q, r))
    chosen = given["mask"] & (p >= 0.99)
    assert 0 < chosen.sum() < given["mask"].sum()
    metrics = out["metrics"]
    assert metrics["extrapolation/teacher_modal"] == pytest.approx(min(p[chosen].mean(), 1 - 1e-9))
    assert metrics["extrapolation/reference_modal"] == pytest.approx(b[chosen].mean())
    assert metrics["extrapolation/limit"] > 1
