"""Generalized advantages: their definition as weighted means, and where an episode ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfteach.objective.returns import generalized_advantage


def episodes(seed: int = 0, T: int = 9, E: int = 4) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, T, E))
    ended = rng.uniform(size=(T, E)) < 0.3
    return reward, value, next_value, ended


@pytest.mark.parametrize("finite_horizon", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_advantages_are_weighted_means_of_those_of_k_steps(finite_horizon: bool, lam: float) -> None:
    reward, value, next_value, ended = episodes()
    gamma, (T, E) = 0.9, reward.shape
    expected = np.zeros((T, E))
    for t, e in np.ndindex(T, E):
        last = next((u for u in range(t, T) if ended[u, e]), T - 1)
        # an episode's values chain: what a step came to is the next step's state
        chained = np.where(np.arange(T) < last, np.append(value[1:, e], 0), next_value[:, e])
        each = [
            sum(gamma**i * reward[t + i, e] for i in range(k)) + gamma**k * chained[t + k - 1] - value[t, e]
            for k in range(1, last - t + 2)
        ]
        weights = np.array([lam ** (k - 1) for k in range(1, len(each) + 1)])
        if not finite_horizon:
            weights[:-1] *= 1 - lam
        expected[t, e] = (weights * each).sum() / weights.sum()
    followed = np.where(ended, next_value, np.concatenate([value[1:], next_value[-1:]]))
    given = (torch.from_numpy(one) for one in (reward, value, followed, ended))
    found = generalized_advantage(*given, gamma, lam, finite_horizon=finite_horizon)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_nothing_of_an_episode_reaches_the_one_before() -> None:
    reward, value, next_value, ended = (torch.from_numpy(one) for one in episodes())
    ended[:] = False
    ended[4] = True
    for finite_horizon in (False, True):
        one, other = (
            generalized_advantage(
                torch.cat([reward[:5], extra + reward[5:]]), value, next_value, ended, 0.9, 0.9,
                finite_horizon=finite_horizon,
            )
            for extra in (0, 7)
        )  # fmt: skip
        torch.testing.assert_close(one[:5], other[:5], rtol=0, atol=0)
        assert (one[5:] != other[5:]).all()
