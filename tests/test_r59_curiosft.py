"""Card 59: what the released code of CurioSFT computes, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax
from selfteach.errors import UserError
from selfteach.objective.positions import Positions
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r59_curiosft import CurioSFT
from selfteach.testing import evaluate


def tau(logits: np.ndarray, **knobs: Any) -> np.ndarray:
    """The recipe's temperature at some positions [P, V] of the teacher."""
    recipe = with_knobs(recipe_named("curiosft"), knobs)
    assert isinstance(recipe, CurioSFT)
    place = torch.arange(len(logits))
    at = Positions(place * 0, place * 0, place, {"teacher": torch.tensor(logits, dtype=torch.float64)})
    return recipe.raised(at).numpy()


def entropy(logits: np.ndarray) -> np.ndarray:
    p = log_softmax(logits)
    return -(np.exp(p) * p).sum(-1)


def expected(given: dict[str, Any], alpha: float) -> np.ndarray:
    """[N, T] losses."""
    z = given["teacher_logits"]["teacher"]
    flat = tau(z.reshape(-1, VOCABULARY)).reshape(z.shape[:2])
    ids = given["ids"][..., None]
    p = np.take_along_axis(log_softmax(given["student_logits"]), ids, -1)[..., 0]
    q = np.take_along_axis(log_softmax(z / flat[..., None]), ids, -1)[..., 0]
    return -p + alpha * 0.5 * (p - q) ** 2


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_loss_is_the_cards(alpha: float) -> None:
    given = arrays()
    out = evaluate("curiosft", given, overrides={"alpha": alpha})
    assert out["loss"] == pytest.approx(expected(given, alpha)[given["mask"]].mean(), rel=1e-12)


def test_it_is_sft_with_a_weight_of_one_plus_alpha_log_q_over_p() -> None:
    given, alpha = arrays(), 0.8
    z = given["teacher_logits"]["teacher"]
    flat = tau(z.reshape(-1, VOCABULARY)).reshape(z.shape[:2])[..., None]
    ids, mask = given["ids"][..., None], given["mask"]
    p, q = (np.take_along_axis(log_softmax(x), ids, -1)[..., 0] for x in (given["student_logits"], z / flat))
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    weight = (1 - alpha * (p - q)) * mask / mask.sum()
    out = evaluate("curiosft", given, overrides={"alpha": alpha})
    np.testing.assert_allclose(out["grad"], -weight[..., None] * score, atol=1e-13)


def test_a_teacher_that_is_the_student_at_temperature_one_makes_it_sft() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    one = {"tau_low": 1.0, "tau_high": 1.0}
    sft = evaluate("sft", {k: v for k, v in given.items() if k != "teacher_logits"})
    out = evaluate("curiosft", given, overrides=one)
    assert out["loss"] == pytest.approx(sft["loss"], rel=1e-12)
    np.testing.assert_allclose(out["grad"], sft["grad"], atol=1e-14)


def test_without_the_pull_no_teacher_is_asked() -> None:
    assert not recipe_named("curiosft", "sft").teachers


def test_the_temperature_raises_the_entropy_to_what_is_wanted() -> None:
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(50, VOCABULARY))
    found = tau(z)
    h = entropy(z)
    wanted = h + 0.5 / (1 + np.exp(-2 * (h - 1.2)))
    inside = (found > 1.1001) & (found < 1.4999)
    assert inside.sum() > 5
    np.testing.assert_allclose(entropy(z / found[:, None])[inside], wanted[inside], atol=1e-6)
    assert (entropy(z / 1.1) >= wanted - 1e-6)[found < 1.1001].all()
    assert (entropy(z / 1.5) <= wanted + 1e-6)[found > 1.4999].all()


def test_what_is_added_at_the_center_is_half_of_the_gain() -> None:
    two = np.array([[0.0, 0.0] + [-1e9] * 3])
    assert entropy(two)[0] == pytest.approx(np.log(2))
    # At H = center what is wanted is H + gain / 2 = log 2 + 0.01, which two tokens cannot have: the hottest is taken.
    assert tau(two, center=float(np.log(2)), gain=0.02) == pytest.approx(1.5, abs=1e-5)


def test_a_certain_token_is_taken_for_a_fact() -> None:
    sure = np.zeros((1, VOCABULARY))
    sure[0, 3] = 30.0
    assert tau(sure) == pytest.approx(1.1)


def test_a_constant_in_the_logits_changes_nothing() -> None:
    z = np.random.default_rng(1).normal(size=(9, VOCABULARY))
    np.testing.assert_allclose(tau(z + 7.0), tau(z), atol=1e-6)


def test_the_entropy_of_the_likeliest_alone_is_read() -> None:
    z = np.random.default_rng(2).normal(size=(9, VOCABULARY))
    top = np.sort(z, axis=-1)[:, -4:]
    np.testing.assert_allclose(tau(z, entropy_top_k=4), tau(top, entropy_top_k=4), atol=1e-6)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(UserError, match="tau_low"):
        recipe_named("curiosft").__class__(tau_low=2.0, tau_high=1.0)
