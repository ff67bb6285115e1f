"""Numbers that look across rollouts of a group or the whole batch: advantages and normalized weights."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfteach.objective.aggregate import numbered

Scale = Literal["std", "population", "none"]
"""What an advantage is divided by: its group's standard deviation, of the sample or of the population, or nothing."""
Baseline = Literal["group", "others"]
"""What is taken off a reward: the mean of its group, or of the others in it (leave one out)."""


def group_sum(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """[N] → [N]: in place of each value the sum over the rows of its group that ``among`` [N] selects (None: all)."""
    index = numbered(group)
    groups = int(index.max()) + 1 if len(index) else 0
    kept = values if among is None else torch.where(among, values, torch.zeros_like(values))
    return values.new_zeros(groups).index_add(0, index, kept)[index]


def group_mean(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """[N] → [N]: the mean in place of the sum; NaN where ``among`` selects no row of the group."""
    return group_sum(values, group, among) / group_sum(torch.ones_like(values), group, among)


def group_std(
    values: Float[Tensor, "N"],
    group: Int[Tensor, "N"],
    among: Bool[Tensor, "N"] | None = None,
    correction: Literal[0, 1] = 1,
) -> Float[Tensor, "N"]:
    """[N] → [N]: the sample standard deviation in place of the mean (``correction`` 0: the population's, divided by n
    in place of n − 1); 0 for a single row."""
    centered = values - group_mean(values, group, among)
    size = group_sum(torch.ones_like(values), group, among)
    return (group_mean(centered**2, group, among) * size / (size - correction).clamp(min=1)).sqrt()


def group_advantage(
    reward: Float[Tensor, "N"],
    group: Int[Tensor, "N"],
    scale: Scale = "std",
    epsilon: float = 1e-4,
    baseline: Baseline = "group",
    among: Bool[Tensor, "N"] | None = None,
) -> Float[Tensor, "N"]:
    """[N] r − mean of its group, divided by the group's standard deviation + ε unless ``scale`` is "none". ``baseline``
    "others": the mean of the group's other rows is taken off instead (RLOO, arXiv 2402.14740).

    "std" is the sample's (n − 1), as in GRPO's released code (DeepSeekMath, arXiv 2402.03300, sec. 4.1), "population"
    the other (n; RLAD, arXiv 2602.22495); "none" is Dr. GRPO (arXiv 2503.20783). A group of one, or of equal rewards,
    has advantage 0. Rows that ``among`` [N] leaves out (None: none) count in no mean, deviation or number of rows, and
    have advantage 0, whatever stands in ``reward`` there.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {scale!r}")
    centered = reward - group_mean(reward, group, among)
    if baseline == "others":  # r − (n · mean − r) / (n − 1)
        size = group_sum(torch.ones_like(reward), group, among)
        centered = centered * size / (size - 1).clamp(min=1)
    if scale != "none":
        centered = centered / (
            group_std(reward, group, among, correction=1 if scale == "std" else 0) + epsilon
        )
    return centered if among is None else torch.where(among, centered, 0.0)


def group_max(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """[N] → [N]: the largest in place of the mean; NaN where ``among`` selects no row of the group."""
    index = numbered(group)
    groups = int(index.max()) + 1 if len(index) else 0
    chosen = torch.ones_like(index, dtype=torch.bool) if among is None else among
    found = values.new_full((groups,), torch.nan)
    return found.scatter_reduce(0, index[chosen], values[chosen], "amax", include_self=False)[index]


def group_min_max(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """[N] → [N]: each value's place between the smallest (0) and the largest (1) of the rows of its group that
    ``among`` [N] selects (None: all); 0 where these are equal and where it does not select the row. A NaN stays one."""
    chosen = torch.ones_like(values, dtype=torch.bool) if among is None else among
    kept = torch.where(chosen, values, 0.0)
    low, high = -group_max(-kept, group, chosen), group_max(kept, group, chosen)
    return torch.where(chosen & (high != low), (kept - low) / (high - low), 0.0)


def group_rank(
    values: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"] | None = None
) -> Int[Tensor, "N"]:
    """[N] → [N] long: each row's place among the rows of its group that ``among`` [N] selects (None: all), 0 for the
    largest; of equals the earlier comes first. −1 where ``among`` does not select the row."""
    chosen = torch.ones_like(group, dtype=torch.bool) if among is None else among
    place = torch.arange(len(group), device=group.device)
    ahead = (values > values.unsqueeze(1)) | ((values == values.unsqueeze(1)) & (place < place.unsqueeze(1)))
    ahead &= (group == group.unsqueeze(1)) & chosen
    return torch.where(chosen, ahead.sum(dim=1), -1)


def normalized(weight: Float[Tensor, "*N"], over: Bool[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Scale weights so that their mean over the True entries of ``over`` is 1; zero outside (SRPO)."""
    chosen = torch.where(over, weight, torch.zeros_like(weight))
    return chosen * over.sum().clamp(min=1) / chosen.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def group_softmax(
    score: Float[Tensor, "N"], group: Int[Tensor, "N"], among: Bool[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """[N] softmax of ``score`` over the rows of each group that ``among`` [N] selects; 0 elsewhere (SCOPE).

    A group's weights sum to 1; a lone row has weight 1.
    """
    index = numbered(group)
    groups = int(index.max()) + 1 if len(index) else 0
    lowest = score.new_full((groups,), -torch.inf)
    highest = lowest.scatter_reduce(0, index[among], score[among], "amax")
    shifted = torch.where(among, score - torch.where(among, highest[index], 0.0), -torch.inf)
    mass = shifted.exp()
    total = mass.new_zeros(groups).index_add(0, index, mass)
    return torch.where(among, mass / total[index].clamp(min=torch.finfo(mass.dtype).tiny), 0.0)
