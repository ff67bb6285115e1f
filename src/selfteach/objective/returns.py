"""Advantages of the steps of episodes, from rewards and a critic's values."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def generalized_advantage(
    reward: Float[Tensor, "T E"],
    value: Float[Tensor, "T E"],
    next_value: Float[Tensor, "T E"],
    ended: Bool[Tensor, "T E"],
    gamma: float,
    gae_lambda: float,
    *,
    finite_horizon: bool = False,
) -> Float[Tensor, "T E"]:
    """Generalized advantages (arXiv 1506.02438) of T steps in E environments, in the reward's unit; no gradient.

    ``next_value``: the critic's value of what the step came to, before any next episode began; 0 where nothing follows
    (a termination). Where an episode was only cut short (a truncation, or the last step that was taken) it stands for
    what would have followed. ``ended``: the step was the last of its episode.

        δ_t = r_t + γ v_{t+1} − v_t,   A_t = δ_t + γ λ A_{t+1}        (A_{t+1} = 0 where the episode ended)

    This weighs the k-step advantages by (1 − λ) λ^(k−1), and the longest by all that is left. ``finite_horizon``
    weighs them by λ^(k−1) / Σ λ^(k−1) (equation 16, cut off and normalized). Of one step, and at λ = 0, both are δ.
    """
    reward, value, next_value = reward.detach(), value.detach(), next_value.detach()
    if finite_horizon:
        return normalized_returns(reward, next_value, ended, gamma, gae_lambda) - value
    return telescoped(reward + gamma * next_value - value, ended, gamma * gae_lambda)


def telescoped(delta: Float[Tensor, "T E"], ended: Bool[Tensor, "T E"], decay: float) -> Float[Tensor, "T E"]:
    """Σ_k decay^k δ_{t+k} to the end of the episode."""
    found = torch.zeros_like(delta)
    after = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        after = delta[t] + decay * torch.where(ended[t], 0.0, after)
        found[t] = after
    return found


def normalized_returns(
    reward: Float[Tensor, "T E"],
    next_value: Float[Tensor, "T E"],
    ended: Bool[Tensor, "T E"],
    gamma: float,
    gae_lambda: float,
) -> Float[Tensor, "T E"]:
    """The mean of the k-step returns weighted by λ^(k−1): from the last step on, their rewards, their last values and
    the weights are summed."""
    found = torch.zeros_like(reward)
    weights, rewards, values = (torch.zeros_like(reward[0]) for _ in range(3))
    for t in reversed(range(len(reward))):
        weights, rewards, values = (torch.where(ended[t], 0.0, one) for one in (weights, rewards, values))
        weights = 1 + gae_lambda * weights
        rewards = weights * reward[t] + gae_lambda * gamma * rewards
        values = gamma * (next_value[t] + gae_lambda * values)
        found[t] = (rewards + values) / weights
    return found
