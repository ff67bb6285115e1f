"""Card 40: what the paper says SODA is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Frozen
from selfteach.testing import evaluate

PAIRS = ((0, 1), (3, 5))


def sums(logits: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    taken = np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]
    return (taken * given["mask"]).sum(1)


def loss(given: dict[str, Any], beta: float = 0.1, logits: np.ndarray | None = None) -> float:
    own = sums(given["student_logits"] if logits is None else logits, given)
    gained = beta * (own - sums(given["teacher_logits"]["reference"], given))
    return float(np.mean([np.log1p(np.exp(gained[lo] - gained[w])) for w, lo in PAIRS]))


@pytest.mark.parametrize("beta", [0.1, 0.8])
def test_the_loss_is_dpos_of_the_stored_pairs(beta: float) -> None:
    given = arrays(teachers=("reference",))
    out = evaluate("soda", given, overrides={"beta": beta})
    assert out["loss"] == pytest.approx(loss(given, beta), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, beta, moved)):
        assert out["grad"][place] == pytest.approx(slope, abs=1e-8)


def test_at_the_warm_ups_end_it_is_log_2_and_pulls_both_sides_alike() -> None:
    """The gradient is −(β/2) [ ∇ log q(y⁺) − ∇ log q(y⁻) ]."""
    given = arrays(teachers=("reference",))
    given["teacher_logits"] = {"reference": given["student_logits"]}
    out = evaluate("soda", given)
    assert out["loss"] == pytest.approx(np.log(2), rel=1e-12)
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    sign = np.zeros(6)
    sign[[0, 3]], sign[[1, 5]] = -1, 1
    expected = 0.05 * sign[:, None, None] * score * given["mask"][..., None] / len(PAIRS)
    np.testing.assert_allclose(out["grad"], expected, atol=1e-14)


def test_equal_sides_teach_nothing() -> None:
    given = arrays(teachers=("reference",))
    for name in ("ids", "mask", "student_logits"):
        for w, lo in PAIRS:
            given[name][lo] = given[name][w]
    reference = given["teacher_logits"]["reference"]
    reference[[1, 5]] = reference[[0, 3]]
    out = evaluate("soda", given)
    assert out["loss"] == pytest.approx(np.log(2), rel=1e-12)
    # The two rows are one text: what moves its logits is the sum of both rows' gradients.
    for w, lo in PAIRS:
        np.testing.assert_allclose(out["grad"][w] + out["grad"][lo], 0, atol=1e-15)


def test_log_ratios_times_c_are_beta_times_c() -> None:
    """log q/q_w is linear in what is added to a written token's log-prob: 2β is as if every gap were twice as wide."""
    given = arrays(teachers=("reference",))
    gap = sums(given["student_logits"], given) - sums(given["teacher_logits"]["reference"], given)
    margin = np.array([gap[w] - gap[lo] for w, lo in PAIRS])
    for beta in (0.1, 0.2):
        expected = np.log1p(np.exp(-beta * margin)).mean()
        assert evaluate("soda", given, overrides={"beta": beta})["loss"] == pytest.approx(expected, rel=1e-12)


def test_the_warm_up_imitates_the_teachers_side_alone() -> None:
    given = arrays()
    recipe = recipe_named("soda").stages["sft"]
    out = evaluate(recipe, {**given, "teacher_logits": {}})
    p = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    better = np.isin(np.arange(6), [0, 3])[:, None] & given["mask"]
    assert out["loss"] == pytest.approx(-p[better].mean(), rel=1e-12)
    assert (out["grad"][[1, 2, 4, 5]] == 0).all()


def test_the_stages_share_the_pairs_and_the_second_refers_to_the_firsts_end() -> None:
    recipe = with_knobs(recipe_named("soda"), {"teacher": "large"})
    warmup, prefer = recipe.stages.values()
    assert warmup.store == prefer.store == "pairs"
    assert warmup.rollouts.stored == prefer.rollouts.stored
    assert isinstance(prefer.teachers["reference"].weights, Frozen)
    assert [*warmup.writers] == ["teacher"]
    assert warmup.active(0) == ()


@pytest.mark.parametrize(("knobs", "match"), [({"stored": 0}, "stored"), ({"per_prompt": 2}, "per_prompt")])
def test_what_has_no_pairs_is_refused(knobs: dict[str, int], match: str) -> None:
    with pytest.raises(UserError, match=match):
        with_knobs(recipe_named("soda"), knobs)
