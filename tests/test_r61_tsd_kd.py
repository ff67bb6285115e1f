"""Card 61: what TSD-KD's released code computes, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import LENGTHS, arrays, log_softmax, slopes
from selfteach.recipes.r61_tsd_kd import opening
from selfteach.testing import evaluate

DIRECT = {"alpha": 0.0, "entropy_weight": 0.0}


def both(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])


def entropy(log_probs: np.ndarray) -> np.ndarray:
    return -(np.exp(log_probs) * log_probs).sum(-1)


def jsd(p: np.ndarray, q: np.ndarray, beta: float) -> np.ndarray:
    m = np.log((1 - beta) * np.exp(p) + beta * np.exp(q))
    return beta * (np.exp(q) * (q - m)).sum(-1) + (1 - beta) * (np.exp(p) * (p - m)).sum(-1)


def ranking(p: np.ndarray, q: np.ndarray, k: int) -> np.ndarray:
    found = np.zeros(p.shape[:2])
    for place in np.ndindex(found.shape):
        top = np.argsort(-p[place], kind="stable")[:k]
        s = p[place][top[np.argsort(-q[place][top], kind="stable")]]
        found[place] = sum(np.logaddexp.reduce(s[i:]) - s[i] for i in range(k))
    return found


def parts(
    given: dict[str, Any], beta: float = 0.9, k: int = 10, rho: float = 0.1, q_of: float = 0.1
) -> dict[str, float]:
    p, q = both(given)
    mask, h = given["mask"], entropy(p)
    weight = 1 / (1 + np.exp(-(h - entropy(q))))
    high = mask & (h >= np.quantile(h[mask], q_of))
    spent = np.cumsum(h * mask, axis=1)
    first = mask & (spent < rho * spent[:, -1:])
    return {
        "direct": float((weight * jsd(p, q, beta))[mask].sum() / mask.sum()),
        "entropy": float(h[high].mean()),
        "ranking": float(0.1 * ranking(p, q, k)[first].mean()) if first.any() else 0.0,
    }


@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_the_three_losses_are_the_cards(rho: float) -> None:
    given = arrays()
    out = evaluate("tsd-kd", given, overrides={"rho": rho})
    for name, value in parts(given, rho=rho).items():
        assert out["terms"][name] == pytest.approx(value, rel=1e-10, abs=1e-15), name


@pytest.mark.parametrize("knobs", [DIRECT, {**DIRECT, "weighted": False}])
def test_the_direct_losss_gradient_is_that_of_finite_differences_with_its_weight_held(
    knobs: dict[str, Any],
) -> None:
    given = arrays()
    p, q = both(given)
    mask = given["mask"]
    held = (
        1 / (1 + np.exp(-(entropy(p) - entropy(q)))) if knobs.get("weighted", True) else np.ones(mask.shape)
    )
    out = evaluate("tsd-kd", given, overrides=knobs)["grad"]

    def loss(moved: np.ndarray) -> float:
        return float((held * jsd(log_softmax(moved), q, 0.9))[mask].sum() / mask.sum())

    for place, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(out[place], abs=1e-8)


def test_without_its_additions_it_is_gkd() -> None:
    given = arrays()
    one = evaluate("tsd-kd", given, overrides={**DIRECT, "weighted": False})
    other = evaluate("gkd", given, overrides={"beta": 0.9, "mean_over": "tokens"})
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-12)
    np.testing.assert_allclose(one["grad"], other["grad"], atol=1e-14)


def test_a_teacher_that_is_the_student_weighs_half_and_teaches_nothing() -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    out = evaluate("tsd-kd", given, overrides=DIRECT)
    assert out["loss"] == pytest.approx(0, abs=1e-12)
    assert np.abs(out["grad"]).max() < 1e-12


def test_the_entropy_term_lowers_entropy() -> None:
    given = arrays()
    out = evaluate("tsd-kd", given, overrides={"alpha": 0.0, "entropy_quantile": 0.0})
    direct = evaluate("tsd-kd", given, overrides=DIRECT)
    step = -(out["grad"] - direct["grad"])
    after = entropy(log_softmax(given["student_logits"] + 1e-3 * step))
    assert after[given["mask"]].mean() < entropy(both(given)[0])[given["mask"]].mean()


def test_the_released_order_is_the_reverse() -> None:
    given = arrays()
    only = {"entropy_weight": 0.0, "rho": 1.0, "student_top_k": 3}
    p, q = both(given)
    k = 3
    mask = given["mask"]
    h = entropy(p)
    spent = np.cumsum(h * mask, axis=1)
    first = mask & (spent < spent[:, -1:])
    out = evaluate("tsd-kd", given, overrides={**only, "order": "reversed"})
    assert out["terms"]["ranking"] == pytest.approx(0.1 * ranking(p, -q, k)[first].mean(), rel=1e-10)


def test_the_opening_ends_before_the_token_that_completes_the_share() -> None:
    h = torch.tensor([[4.0, 1.0, 1.0, 4.0], [1.0, 1.0, 8.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [False] * 4])
    found = opening(h, mask, 0.5)
    assert found.tolist() == [[True, False, False, False], [True, True, False, False], [False] * 4]
    assert LENGTHS[3] == 1  # a row of one token has no opening below the whole
    assert not opening(h[:, :1], mask[:, :1], 1.0).any()
