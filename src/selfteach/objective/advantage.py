"""Numbers that look across rollouts of a group or the whole batch: advantages and normalized weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def group_sum(values: Tensor, group: Tensor) -> Tensor:
    """[N] → [N]: each row's value replaced by the sum over the rows of its group."""
    _, index = group.unique(return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    return values.new_zeros(groups).index_add(0, index, values)[index]


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """[N] → [N]: each row's value replaced by the mean over the rows of its group."""
    return group_sum(values, group) / group_sum(torch.ones_like(values), group)


def group_advantage(
    reward: Tensor, group: Tensor, scale: Literal["std", "none"] = "std", epsilon: float = 1e-4
) -> Tensor:
    """[N] r − mean of its group, divided by the group's standard deviation + ε if ``scale`` is "std".

    The deviation is the sample one (n − 1), as in GRPO's released code (DeepSeekMath, arXiv 2402.03300, sec. 4.1);
    "none" is Dr. GRPO (arXiv 2503.20783). A group of one, or of equal rewards, has advantage 0.
    """
    if scale not in ("std", "none"):
        raise ValueError(f"scale must be 'std' or 'none', got {scale!r}")
    centered = reward - group_mean(reward, group)
    if scale == "none":
        return centered
    size = group_sum(torch.ones_like(reward), group)
    variance = group_mean(centered**2, group) * size / (size - 1).clamp(min=1)
    return centered / (variance.sqrt() + epsilon)


def normalized(weight: Tensor, over: Tensor) -> Tensor:
    """Scale weights so that their mean over the True entries of ``over`` is 1; zero outside (card 15)."""
    chosen = torch.where(over, weight, torch.zeros_like(weight))
    return chosen * over.sum().clamp(min=1) / chosen.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def group_softmax(score: Tensor, group: Tensor, among: Tensor) -> Tensor:
    """[N] softmax of ``score`` over the rows of each group that ``among`` [N] selects; 0 elsewhere (card 37).

    A group's weights sum to 1; a lone row has weight 1.
    """
    _, index = group.unique(return_inverse=True)
    groups = int(index.max()) + 1 if len(index) else 0
    lowest = score.new_full((groups,), -torch.inf)
    highest = lowest.scatter_reduce(0, index[among], score[among], "amax")
    shifted = torch.where(among, score - torch.where(among, highest[index], 0.0), -torch.inf)
    mass = shifted.exp()
    total = mass.new_zeros(groups).index_add(0, index, mass)
    return torch.where(among, mass / total[index].clamp(min=torch.finfo(mass.dtype).tiny), 0.0)
