"""Numbers that look across the rollouts of a group."""

from __future__ import annotations

import pytest
import torch

from selfteach.objective.advantage import group_mean, group_softmax, group_sum

GROUP = torch.tensor([7, 2, 7, 2, 7, 5])
VALUES = torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=torch.float64)


def test_sum_and_mean_stand_on_every_row_of_the_group() -> None:
    assert group_sum(VALUES, GROUP).tolist() == [9, 6, 9, 6, 9, 6]
    assert group_mean(VALUES, GROUP).tolist() == [3, 3, 3, 3, 3, 6]


def test_group_softmax_sums_to_one_over_the_chosen_rows_of_each_group() -> None:
    among = torch.tensor([True, False, True, True, False, True])
    weights = group_softmax(VALUES, GROUP, among)
    pair = torch.softmax(torch.tensor([1.0, 3.0], dtype=torch.float64), dim=0).tolist()
    assert weights.tolist() == pytest.approx([pair[0], 0, pair[1], 1, 0, 1])


def test_group_softmax_without_a_chosen_row_is_zero() -> None:
    assert group_softmax(VALUES, GROUP, torch.zeros(6, dtype=torch.bool)).tolist() == [0] * 6


def test_group_softmax_survives_large_scores() -> None:
    weights = group_softmax(VALUES * 1e4, GROUP, torch.ones(6, dtype=torch.bool))
    assert weights.tolist() == [0, 0, 0, 1, 1, 1]
