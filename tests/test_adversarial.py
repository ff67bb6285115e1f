"""Losses of discriminators: limits, symmetries, and what their minima are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from selfteach.objective.adversarial import bradley_terry, gradient_penalty, logistic


def test_equal_scores_cost_log_two() -> None:
    scores = torch.randn(7, dtype=torch.float64)
    assert bradley_terry(scores, scores).item() == pytest.approx(math.log(2), abs=1e-12)
    assert logistic(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(2 * math.log(2))


def test_a_pair_is_told_by_its_difference_alone() -> None:
    preferred, other, added = torch.randn(3, 9, dtype=torch.float64)
    torch.testing.assert_close(
        bradley_terry(preferred + added, other + added), bradley_terry(preferred, other)
    )
    assert not torch.isclose(logistic(preferred + added, other + added), logistic(preferred, other))


def test_far_apart_scores_cost_nothing_or_their_distance() -> None:
    far = torch.tensor([900.0])
    assert bradley_terry(far, -far).item() == 0
    assert bradley_terry(-far, far).item() == 1800


@pytest.mark.parametrize(("loss", "constant"), [(bradley_terry, 3.0), (logistic, 0.0)])
def test_the_best_scores_of_a_finite_set_are_its_log_ratios(loss: Any, constant: float) -> None:
    """Every sample of the one against every sample of the other: no score can be moved for the better."""
    p, q = torch.tensor([[1, 2, 5, 4, 1], [3, 4, 2, 1, 2]])
    scores = torch.log(p.double() / p.sum()) - torch.log(q.double() / q.sum()) + constant
    scores.requires_grad_()
    real, fake = (torch.repeat_interleave(scores, many) for many in (p, q))
    pairs = torch.broadcast_tensors(real[:, None], fake[None])
    slope = torch.autograd.grad(loss(*pairs), scores)[0]
    torch.testing.assert_close(slope, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_best_line_between_two_normals_is_their_log_ratio() -> None:
    """N(1, s²) and N(−0.5, s²): log p/q is 1.5 x/s² + c, and no other slope costs less."""
    levels, s = (torch.arange(400, dtype=torch.float64) + 0.5) / 400, 0.8
    real, fake = (Normal(torch.tensor(at).double(), s).icdf(levels) for at in (1.0, -0.5))
    slopes = torch.linspace(1.5, 3.25, 71, dtype=torch.float64)
    costs = [float(bradley_terry(*torch.broadcast_tensors(a * real[:, None], a * fake))) for a in slopes]
    assert float(slopes[costs.index(min(costs))]) == pytest.approx(1.5 / s**2, abs=0.03)


def test_a_penalty_is_half_the_mean_square_of_the_slope() -> None:
    assert gradient_penalty(torch.zeros(4, 2)).item() == 0
    assert gradient_penalty(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == pytest.approx((25 + 1) / 4)
