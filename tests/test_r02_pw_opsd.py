"""Card 02: OPSD whose tokens weigh more, the later they stand in their own rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, laptop, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r02_pw_opsd import PWOPSD
from selfteach.testing import evaluate

TAU = 1.1
"""The sampling temperature, which the loss shares."""


def weights(mask: np.ndarray, w_min: float = 0.25, middle: float = 0.30, width: float = 0.10) -> np.ndarray:
    r = (mask.cumsum(1) - 0.5) / mask.sum(1, keepdims=True)
    return w_min + (1 - w_min) / (1 + np.exp(-(r - middle) / width))


def token_losses(given: dict[str, Any]) -> np.ndarray:
    p = log_softmax(given["student_logits"], TAU)
    q = log_softmax(given["teacher_logits"]["teacher"], TAU)
    return np.minimum(np.exp(q) * (q - p), 0.05).sum(-1)


def weight_at(r: float, **knobs: float) -> float:
    return float(PWOPSD(**knobs).position_weight(torch.tensor(r, dtype=torch.float64)))


def test_the_default_is_the_papers_weighted_clipped_forward_kl_divided_by_length() -> None:
    given = arrays()
    mask = given["mask"]
    per_rollout = (token_losses(given) * weights(mask) * mask).sum(1) / mask.sum(1)
    assert evaluate("pw-opsd", given)["loss"] == pytest.approx(per_rollout.mean(), rel=1e-10)


def test_under_the_global_reduction_the_divisor_is_all_tokens_and_not_the_weights() -> None:
    given = arrays()
    mask = given["mask"]
    expected = (token_losses(given) * weights(mask) * mask).sum() / mask.sum()
    loss = evaluate(recipe_named("pw-opsd", "position-global"), given)["loss"]
    assert loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("mean_over", ["sequences", "tokens"])
def test_with_a_least_weight_of_one_it_is_opsd_of_the_same_reduction(mean_over: str) -> None:
    given = arrays()
    uniform = evaluate("pw-opsd", given, overrides={"w_min": 1.0, "mean_over": mean_over})
    plain = evaluate("opsd", given, overrides={"mean_over": mean_over})
    assert uniform["loss"] == pytest.approx(plain["loss"], rel=1e-14)
    np.testing.assert_allclose(uniform["grad"], plain["grad"], atol=1e-15)


def test_the_moderate_schedule_has_the_papers_values() -> None:
    assert weight_at(0.0) == pytest.approx(0.2856, abs=5e-5)
    assert weight_at(0.3) == pytest.approx(0.625, rel=1e-12)
    assert weight_at(1.0) == pytest.approx(0.9993, abs=5e-5)


@pytest.mark.parametrize("w_min", [0.0, 0.25, 0.9])
def test_at_the_middle_the_weight_is_half_way(w_min: float) -> None:
    assert weight_at(0.6, w_min=w_min, w_middle=0.6) == pytest.approx((1 + w_min) / 2, rel=1e-12)


def test_the_weight_rises_strictly_with_the_position() -> None:
    r = torch.linspace(0, 1, 50, dtype=torch.float64)
    assert (PWOPSD().position_weight(r).diff() > 0).all()


def test_a_vanishing_width_gives_a_step_at_the_middle() -> None:
    assert weight_at(0.2999, w_width=1e-9) == 0.25
    assert weight_at(0.3001, w_width=1e-9) == 1.0


def test_a_rollouts_weights_know_neither_padding_nor_other_rollouts() -> None:
    given = arrays()
    alone = {
        "ids": given["ids"][2:3, :7],
        "mask": given["mask"][2:3, :7],
        "student_logits": given["student_logits"][2:3, :7],
        "teacher_logits": {"teacher": given["teacher_logits"]["teacher"][2:3, :7]},
    }
    shared, single = (evaluate("pw-opsd", x)["token"]["weight/distill"] for x in (given, alone))
    np.testing.assert_allclose(shared[2, :7] * len(given["ids"]), single[0], rtol=1e-14)


def test_tokens_that_a_tool_wrote_do_not_count_as_positions() -> None:
    given = arrays()
    given["mask"][0, 2:5] = False
    used = evaluate("pw-opsd", given)["token"]["weight/distill"]
    expected = weights(given["mask"]) / given["mask"].sum(1, keepdims=True) / len(given["ids"])
    np.testing.assert_allclose(used[given["mask"]], expected[given["mask"]], rtol=1e-12)


def test_a_rollout_without_tokens_does_not_count_among_the_rollouts() -> None:
    given = arrays()
    given["mask"][3] = False
    mask = np.delete(given["mask"], 3, 0)
    per_rollout = (np.delete(token_losses(given), 3, 0) * weights(mask) * mask).sum(1) / mask.sum(1)
    assert evaluate("pw-opsd", given)["loss"] == pytest.approx(per_rollout.mean(), rel=1e-10)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays()
    gradient = evaluate("pw-opsd", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate("pw-opsd", {**given, "student_logits": moved})["loss"]

    for i, slope in slopes(given["student_logits"], loss, [(0, 0, 3), (0, 8, 1), (2, 4, 12), (5, 2, 0)]):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_a_teacher_that_agrees_gives_zero_loss_and_gradient() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("pw-opsd", given)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


def test_changing_the_teacher_changes_the_gradient() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    assert np.abs(evaluate("pw-opsd", given)["grad"] - evaluate("pw-opsd", other)["grad"]).max() > 1e-4


def test_the_sampled_token_loss_is_weighted_too() -> None:
    given = arrays()
    sampled = replace(PWOPSD(), loss="policy-gradient", clip_entry=None)
    weighted, uniform = (evaluate(recipe, given)["grad"] for recipe in (sampled, replace(sampled, w_min=1.0)))
    np.testing.assert_allclose(weighted, uniform * weights(given["mask"])[..., None], atol=1e-14)


def test_the_presets_hold_the_papers_values() -> None:
    paper = recipe_named("pw-opsd")
    assert isinstance(paper, PWOPSD)
    assert (paper.w_min, paper.w_middle, paper.w_width) == (0.25, 0.30, 0.10)
    assert (paper.beta, paper.clip_entry, paper.temperature, paper.mean_over) == (0, 0.05, 1.1, "sequences")
    assert (paper.optimization.lr, paper.optimization.steps, paper.optimization.prompts) == (5e-6, 150, 32)
    assert isinstance(laptop("pw-opsd"), PWOPSD)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"w_min": 1.2}, "w_min"),
        ({"w_middle": -0.1}, "w_middle"),
        ({"w_width": 0.0}, "w_width"),
        ({"beta": 2}, "beta"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(PWOPSD(), knobs)
