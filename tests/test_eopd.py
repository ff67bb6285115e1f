"""EOPD and REOPOLD: what a sampled distillation loss gains, or leaves out, by entropy and by a floor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import External, Frozen
from selfteach.testing import evaluate


def given_on_policy() -> dict[str, Any]:
    given = arrays()
    q = np.take_along_axis(log_softmax(given["student_logits"]), given["ids"][..., None], -1)[..., 0]
    return {**given, "behavior": q}


def parts(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Student p and teacher q over the vocabulary, and at the tokens."""
    p, q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    at = [np.take_along_axis(x, given["ids"][..., None], -1)[..., 0] for x in (p, q)]
    return p, q, at[0], at[1]


def entropy(x: np.ndarray) -> np.ndarray:
    return -(np.exp(x) * x).sum(-1)


@pytest.mark.parametrize("k", [3, 16])
@pytest.mark.parametrize("threshold", [0.0, 2.1, 9.0])
def test_a_forward_kl_to_the_likeliest_tokens_stands_where_the_teacher_is_unsure(
    k: int, threshold: float
) -> None:
    given = given_on_policy()
    p, q, _, _ = parts(given)
    kept = np.where(np.sort(q)[..., -min(k, VOCABULARY), None] <= q, q, -np.inf)
    kept = kept - np.log(np.exp(kept).sum(-1, keepdims=True))
    forward = np.where(np.isfinite(kept), np.exp(kept) * (np.where(np.isfinite(kept), kept, 0) - p), 0).sum(
        -1
    )
    unsure = entropy(q) > threshold
    out = evaluate("eopd", given, overrides={"threshold": threshold, "teacher_top_k": k})
    expected = (forward * unsure * given["mask"]).sum() / given["mask"].sum()
    assert out["terms"]["forward"] == pytest.approx(expected, rel=1e-10, abs=1e-14)
    if threshold == 2.1:
        assert 0 < (unsure & given["mask"]).sum() < given["mask"].sum()


def test_without_it_the_gradient_is_that_of_sampled_distillation() -> None:
    given = given_on_policy()
    p, _, ours, theirs = parts(given)
    out = evaluate("eopd", given, overrides={"forward_weight": 0.0})
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(p)
    expected = -(theirs - ours)[..., None] * score * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(out["grad"], expected, atol=1e-12)
    assert set(out["terms"]) == {"reverse"}


def test_off_policy_the_ratio_is_clipped() -> None:
    given = arrays()
    _, _, ours, theirs = parts(given)
    ratio, advantage = np.exp(ours - given["behavior"]), theirs - given["behavior"]
    each = -np.minimum(ratio * advantage, np.clip(ratio, 0.7, 1.3) * advantage)
    out = evaluate("eopd", given, overrides={"forward_weight": 0.0, "clip": 0.3})
    assert out["loss"] == pytest.approx((each * given["mask"]).sum() / given["mask"].sum(), rel=1e-12)


@pytest.mark.parametrize("name", ["eopd", "reopold"])
def test_the_teacher_is_a_larger_model_or_oneself_with_the_solution(name: str) -> None:
    role = recipe_named(name).teachers["teacher"]
    assert (role.weights, role.view) == (External("Qwen/Qwen3-8B"), Plain())
    role = recipe_named(name, "self").teachers["teacher"]
    assert (role.weights, role.view) == (Frozen(), Solution())


# --- REOPOLD -----------------------------------------------------------------------------------------------------


def reopold(given: dict[str, Any], chosen: np.ndarray, floor: float) -> np.ndarray:
    """[N, T, V] the gradient: −Σ M max(R, floor) ∇log p / Σ M."""
    p, _, ours, theirs = parts(given)
    chosen = chosen & given["mask"]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(p)
    return -(np.maximum(theirs - ours, floor) * chosen)[..., None] * score / chosen.sum()


@pytest.mark.parametrize("mixture", [0.1, 0.6])
def test_first_what_lies_below_the_floor_is_left_out(mixture: float) -> None:
    given = given_on_policy()
    given["teacher_logits"]["teacher"] *= 2
    _, _, ours, theirs = parts(given)
    floor = math.log(mixture) / (1 - mixture)
    chosen = theirs - ours >= floor
    assert 0 < (chosen & given["mask"]).sum() < given["mask"].sum()
    out = evaluate("reopold", given, step=49, overrides={"mixture": mixture})
    np.testing.assert_allclose(out["grad"], reopold(given, chosen, floor), atol=1e-12)


def test_the_floor_of_the_paper_is_2_56_nats() -> None:
    assert recipe_named("reopold").floor == pytest.approx(-2.558, abs=1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_then_only_where_the_student_is_most_unsure(share: float) -> None:
    given = given_on_policy()
    uncertainty = entropy(parts(given)[0])
    bound = np.quantile(uncertainty[given["mask"]], 1 - share)
    out = evaluate("reopold", given, step=50, overrides={"refine_share": share})
    expected = reopold(given, uncertainty >= bound, math.log(0.1) / 0.9)
    np.testing.assert_allclose(out["grad"], expected, atol=1e-12)


@pytest.mark.parametrize(("name", "change"), [
    ("eopd", {"threshold": -1.0}), ("eopd", {"teacher_top_k": 0}), ("reopold", {"mixture": 1.0}),
    ("reopold", {"refine_share": 0.0}),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        with_knobs(recipe_named(name), change)
