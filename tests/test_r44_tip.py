"""Card 44: what the paper says TIP is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import LENGTHS, arrays, log_softmax, slopes
from selfteach.recipes import recipe_named, with_knobs
from selfteach.testing import evaluate


def numbers(given: dict[str, Any]) -> dict[str, np.ndarray]:
    """[N, T] entropy, KL(p‖q) and KL(q‖p)."""
    p, q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    return {
        "entropy": -(np.exp(p) * p).sum(-1),
        "reverse": (np.exp(p) * (p - q)).sum(-1),
        "forward": (np.exp(q) * (q - p)).sum(-1),
    }


def unit(column: np.ndarray, mask: np.ndarray) -> np.ndarray:
    low, high = column[mask].min(), column[mask].max()
    return (column - low) / (high - low)


def score(given: dict[str, Any], kind: str, percentile: float = 0.98) -> np.ndarray:
    mask, found = given["mask"], numbers(given)
    h = unit(np.minimum(found["entropy"], np.quantile(found["entropy"][mask], percentile)), mask)
    if kind == "entropy":
        return h
    if kind == "q3":
        return found["forward"] * (1 - h)
    d = unit(found["reverse"], mask)
    return h + d - h * d


def kept(given: dict[str, Any], kind: str, rho: float) -> np.ndarray:
    """[N, T] bool: of each row its max(1, ⌊ρ m⌋) highest."""
    chosen = np.zeros_like(given["mask"])
    scores = score(given, kind)
    for row, length in enumerate(LENGTHS):
        count = max(1, int(np.floor(rho * length + 1e-9)))
        chosen[row, np.argsort(-scores[row, :length], kind="stable")[:count]] = True
    return chosen


@pytest.mark.parametrize("kind", ["soft-or", "entropy", "q3"])
@pytest.mark.parametrize("rho", [0.1, 0.2, 0.5])
def test_the_loss_is_the_mean_reverse_kl_of_the_chosen_tokens(kind: str, rho: float) -> None:
    given = arrays()
    chosen = kept(given, kind, rho)
    out = evaluate("tip", given, overrides={"score": kind, "rho": rho})
    assert out["loss"] == pytest.approx(numbers(given)["reverse"][chosen].mean(), rel=1e-12)
    moved = np.abs(out["grad"]).sum(-1) > 0
    np.testing.assert_array_equal(moved, chosen)  # that of a token left out is exactly 0


def test_the_gradient_is_that_of_finite_differences_of_the_chosen_tokens() -> None:
    given = arrays()
    chosen = kept(given, "soft-or", 0.5)
    out = evaluate("tip", given)["grad"]

    def loss(moved: np.ndarray) -> float:
        return float(numbers({**given, "student_logits": moved})["reverse"][chosen].mean())

    for place, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(out[place], abs=1e-8)


def test_all_tokens_are_plain_distillation() -> None:
    given = arrays()
    out, plain = evaluate("tip", given, overrides={"rho": 1.0}), numbers(given)["reverse"]
    assert out["loss"] == pytest.approx(plain[given["mask"]].mean(), rel=1e-12)


@pytest.mark.parametrize("knob", [{"score": "q3"}, {"score": "entropy"}, {}])
def test_the_scale_of_entropy_does_not_matter(knob: dict[str, Any]) -> None:
    """h / log V is moved to [0, 1] all the same: a vocabulary with words that nobody says changes nothing."""
    given = arrays()
    wider = {
        **given,
        "student_logits": np.pad(given["student_logits"], ((0, 0), (0, 0), (0, 5)), constant_values=-1e9),
        "teacher_logits": {
            "teacher": np.pad(
                given["teacher_logits"]["teacher"], ((0, 0), (0, 0), (0, 5)), constant_values=-1e9
            )
        },
    }
    assert evaluate("tip", wider, overrides=knob)["loss"] == pytest.approx(
        evaluate("tip", given, overrides=knob)["loss"], rel=1e-9
    )


def test_soft_or_is_at_least_either_and_is_the_other_where_one_is_nothing() -> None:
    given = arrays()
    mask, found = given["mask"], numbers(given)
    h, d = score(given, "entropy"), unit(found["reverse"], mask)
    s = score(given, "soft-or")
    assert (s[mask] >= np.maximum(h, d)[mask] - 1e-12).all()
    assert ((s[mask] >= 0) & (s[mask] <= 1)).all()
    alike = {**given, "teacher_logits": {"teacher": given["student_logits"]}}  # δ = 0 everywhere
    grad = np.abs(evaluate("tip", alike)["grad"]).max()
    assert grad < 1e-12
    assert evaluate("tip", alike)["loss"] == pytest.approx(0, abs=1e-12)


def test_drawn_tokens_are_as_many_and_come_in_proportion_to_their_score() -> None:
    given = arrays()
    recipe = with_knobs(recipe_named("tip", "entropy"), {"rho": 0.1})
    share = numbers(given)["entropy"]
    row = 0
    counts = np.zeros(LENGTHS[row])
    for step in range(600):
        moved = np.abs(evaluate(recipe, given, step)["grad"]).sum(-1) > 0
        assert (moved.sum(1) == 1).all()  # max(1, ⌊0.1 m⌋) of at most nine tokens
        counts += moved[row]
    expected = share[row, : LENGTHS[row]] / share[row, : LENGTHS[row]].sum()
    assert np.abs(counts / 600 - expected).max() < 4 * np.sqrt(0.25 / 600)


def test_a_row_that_the_teacher_did_not_see_is_neither_scored_nor_counted() -> None:
    given = arrays()
    seen = np.array([True, True, False, True, False, True])
    out = evaluate("tip", {**given, "available": {"teacher": seen}})
    rows = np.flatnonzero(seen)
    fewer = {name: value[rows] for name, value in given.items() if isinstance(value, np.ndarray)}
    fewer["teacher_logits"] = {"teacher": given["teacher_logits"]["teacher"][rows]}
    alone = evaluate("tip", fewer)
    assert out["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    np.testing.assert_allclose(out["grad"][rows], alone["grad"], atol=1e-14)
    assert not out["grad"][~seen].any()
