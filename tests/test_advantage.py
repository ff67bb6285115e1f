"""Numbers that look across the rollouts of a group."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfteach.objective.advantage import (
    group_advantage,
    group_max,
    group_mean,
    group_min_max,
    group_rank,
    group_softmax,
    group_std,
    group_sum,
)

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


def test_the_deviation_is_the_samples_or_the_populations() -> None:
    for correction in (0, 1):
        found = group_std(VALUES, GROUP, correction=correction)
        for rows in ([0, 2, 4], [1, 3]):
            expected = VALUES[rows].std(correction=correction)
            torch.testing.assert_close(found[rows], expected.expand(len(rows)))
        assert found[5] == 0  # a row alone


@pytest.mark.parametrize(("scale", "deviation"), [("std", 1.0), ("population", (2 / 3) ** 0.5)])
def test_an_advantage_is_divided_by_it(scale: str, deviation: float) -> None:
    group = torch.zeros(3, dtype=torch.long)
    found = group_advantage(torch.tensor([1.0, 2, 3], dtype=torch.float64), group, scale, 0.0)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([-1 / deviation, 0, 1 / deviation])


def test_another_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="population"):
        group_advantage(VALUES, GROUP, "sample")  # type: ignore[arg-type]


def test_the_largest_of_a_group_stands_on_every_row_of_it() -> None:
    assert group_max(VALUES, GROUP).tolist() == [5, 4, 5, 4, 5, 6]
    among = torch.tensor([True, False, True, False, False, True])
    found = group_max(-VALUES, GROUP, among)
    assert found[[0, 2, 4, 5]].tolist() == [-1, -1, -1, -6]
    assert found[[1, 3]].isnan().all()  # nobody of that group is among them


def test_ranks_count_from_the_largest_and_of_equals_the_earlier_first() -> None:
    values = torch.tensor([1.0, 2, 5, 2, 5, 6])
    assert group_rank(values, GROUP).tolist() == [2, 0, 0, 1, 1, 0]
    among = torch.tensor([True, True, False, True, True, False])
    assert group_rank(values, GROUP, among).tolist() == [1, 0, -1, 1, 0, -1]


def test_the_others_mean_is_taken_off_where_one_is_left_out() -> None:
    found = group_advantage(VALUES, GROUP, "none", baseline="others")
    expected = [1 - (3 + 5) / 2, 2 - 4, 3 - (1 + 5) / 2, 4 - 2, 5 - (1 + 3) / 2, 0]
    assert found.tolist() == pytest.approx(expected)


def test_a_place_between_the_groups_smallest_and_largest() -> None:
    values = torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0, 9.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    assert group_min_max(values, group).tolist() == [0.0, 1.0, 0.5, 0.0, 0.0, 0.0]
    among = torch.tensor([True, False, True, True, True, True])
    assert group_min_max(values, group, among).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    values[1] = torch.nan
    assert group_min_max(values, group, among).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert group_min_max(values, group)[:3].isnan().all()


@pytest.mark.parametrize("scale", ["std", "population", "none"])
@pytest.mark.parametrize("baseline", ["group", "others"])
def test_rows_that_are_left_out_are_as_if_they_were_not_there(scale: Any, baseline: Any) -> None:
    among = torch.tensor([True, True, False, True, True, False])
    reward = torch.where(among, VALUES, torch.nan)
    found = group_advantage(reward, GROUP, scale, baseline=baseline, among=among)
    alone = group_advantage(VALUES[among], GROUP[among], scale, baseline=baseline)
    assert found[among].tolist() == alone.tolist()
    assert found[~among].tolist() == [0, 0]
    assert alone.abs().min() > 0.5
