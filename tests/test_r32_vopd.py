"""Card 32: the baseline leaves the expected gradient and takes the mean off the advantage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.r32_vopd import VOPD
from selfteach.testing import evaluate

VOCABULARY = 13


def both(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])


def expected_gradient(given: dict[str, Any], **knobs: Any) -> np.ndarray:
    """Σ_a p(a) ∇L with token a sampled everywhere: the mean of the estimator, by enumeration."""
    p, _ = both(given)
    total = np.zeros_like(p)
    for token in range(VOCABULARY):
        ids = np.full_like(given["ids"], token)
        gradient = evaluate("vopd", {**given, "ids": ids}, overrides=knobs)["grad"]
        total += np.exp(p[..., token : token + 1]) * gradient
    return total


def reverse_kl_gradient(given: dict[str, Any]) -> np.ndarray:
    p, q = both(given)
    gap = p - q
    gradient = np.exp(p) * (gap - (np.exp(p) * gap).sum(-1, keepdims=True))
    return gradient * given["mask"][..., None] / given["mask"].sum()


def test_the_loss_is_the_papers() -> None:
    given = arrays()
    p, q = both(given)
    at = given["ids"][..., None]
    own, theirs = (np.take_along_axis(x, at, -1)[..., 0] for x in (p, q))
    advantage = theirs - own + (np.exp(p) * (p - q)).sum(-1)
    expected = -(advantage * own * given["mask"]).sum() / given["mask"].sum()
    assert evaluate("vopd", given)["loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "knobs", [{}, {"baseline": "none"}, {"baseline": "top-k", "baseline_top_k": 3}], ids=str
)
def test_the_expected_gradient_is_that_of_reverse_kl_whatever_the_baseline(knobs: dict[str, Any]) -> None:
    given = arrays()
    np.testing.assert_allclose(expected_gradient(given, **knobs), reverse_kl_gradient(given), atol=1e-12)


def test_the_mean_of_the_advantage_is_zero_with_the_full_baseline() -> None:
    given = arrays()
    p, q = both(given)
    kl = (np.exp(p) * (p - q)).sum(-1, keepdims=True)
    np.testing.assert_allclose((np.exp(p) * (q - p + kl)).sum(-1), 0, atol=1e-12)


def test_a_top_k_baseline_of_the_whole_vocabulary_is_the_full_one() -> None:
    given = arrays()
    cut = evaluate("vopd", given, overrides={"baseline": "top-k", "baseline_top_k": VOCABULARY})
    np.testing.assert_allclose(cut["grad"], evaluate("vopd", given)["grad"], atol=1e-12)


def test_the_baseline_lowers_the_variance_summed_over_positions() -> None:
    given = arrays()
    p, _ = both(given)

    def spread(**knobs: Any) -> float:
        mean, second = expected_gradient(given, **knobs), 0.0
        for token in range(VOCABULARY):
            ids = np.full_like(given["ids"], token)
            gradient = evaluate("vopd", {**given, "ids": ids}, overrides=knobs)["grad"]
            second += float((np.exp(p[..., token]) * (gradient**2).sum(-1)).sum())
        return second - float((mean**2).sum())

    assert spread() < spread(baseline="none")


def test_it_is_zero_with_zero_gradient_where_the_student_is_the_teacher() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    out = evaluate("vopd", given)
    assert out["loss"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-12)


def test_another_teacher_gives_another_gradient() -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"][..., ::-1].copy()}}
    assert np.abs(evaluate("vopd", given)["grad"] - evaluate("vopd", other)["grad"]).max() > 1e-3


def test_truncated_sampling_is_refused() -> None:
    with pytest.raises(UserError, match="top_p 1"):
        with_knobs(VOPD(), {"top_p": 0.9})
