"""Card 58: what the paper says dGRPO is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, mean_of_sequences
from selfteach.testing import evaluate


def both(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def test_a_coefficient_of_nothing_is_grpo_and_asks_no_teacher() -> None:
    given = without(arrays(), "teacher_logits")
    one, other = (evaluate(name, given, overrides={"kl": 0.0}) for name in ("dgrpo", "grpo"))
    assert one["loss"] == other["loss"]
    np.testing.assert_array_equal(one["grad"], other["grad"])


@pytest.mark.parametrize("kl", [0.04, 1.0])
def test_equal_rewards_leave_on_policy_distillation(kl: float) -> None:
    given = {**arrays(), "reward": np.ones(6)}
    p, q = both(given)
    reverse = (np.exp(p) * (p - q)).sum(-1)
    out = evaluate("dgrpo", given, overrides={"kl": kl, "estimator": "full"})
    assert out["loss"] == pytest.approx(kl * mean_of_sequences(reverse, given["mask"]), rel=1e-12)


def test_the_sampled_estimate_is_k3() -> None:
    given = {**arrays(), "reward": np.ones(6)}
    p, q = (np.take_along_axis(x, given["ids"][..., None], -1)[..., 0] for x in both(given))
    k3 = np.exp(q - p) - 1 - (q - p)
    out = evaluate("dgrpo", given, overrides={"kl": 0.5})
    assert out["loss"] == pytest.approx(0.5 * mean_of_sequences(k3, given["mask"]), rel=1e-12)


@pytest.mark.parametrize("estimator", ["k3"])
def test_a_teacher_that_is_the_reference_makes_it_grpo(estimator: str) -> None:
    given = arrays()
    ours = evaluate("dgrpo", given, overrides={"estimator": estimator})
    grpo = evaluate("grpo", {**given, "teacher_logits": {"reference": given["teacher_logits"]["teacher"]}})
    assert ours["loss"] == grpo["loss"]
    np.testing.assert_array_equal(ours["grad"], grpo["grad"])


def test_on_policy_the_distillation_acts_as_a_reward_of_each_token() -> None:
    """At ratio 1: E_y[(A − β log π/π_T) ∇ log π] is what the full reverse KL and the advantage give together."""
    given, kl = arrays(), 0.3
    p, q = both(given)
    expected = 0.0
    for v in range(VOCABULARY):
        ids = np.full_like(given["ids"], v)
        behavior = p[..., v]
        one = evaluate(
            "dgrpo", {**given, "ids": ids, "behavior": behavior}, overrides={"kl": kl, "estimator": "full"}
        )
        expected = expected + np.exp(p[..., v : v + 1]) * one["grad"]
    mask = given["mask"]
    weight = (mask / mask.sum(1, keepdims=True) / len(mask))[..., None]
    gap = p - q
    reverse = np.exp(p) * (gap - (np.exp(p) * gap).sum(-1, keepdims=True))
    # The group's advantage is one number a row: its mean over the tokens of the vocabulary has no gradient.
    np.testing.assert_allclose(expected, kl * weight * reverse, atol=1e-13)


def test_the_optimum_at_one_position_is_the_teacher_tilted_by_the_reward() -> None:
    """E[r] − β KL(π‖π_T) has its maximum at π ∝ π_T exp(r / β): there the gradient of the exact objective is 0."""
    rng = np.random.default_rng(3)
    reward, kl = rng.normal(size=VOCABULARY), 0.7
    q = log_softmax(rng.normal(size=VOCABULARY)[None])[0]
    p = log_softmax((q + reward / kl)[None])[0]
    value = reward - kl * (p - q)
    slope = np.exp(p) * (value - (np.exp(p) * value).sum())
    np.testing.assert_allclose(slope, 0, atol=1e-14)
