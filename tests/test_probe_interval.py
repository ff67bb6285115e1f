"""AUROC against its definition, and what the cluster bootstrap promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfteach.probe.finding import plain, shown
from selfteach.probe.interval import (
    auroc,
    bootstrap,
    difference_interval,
    mean_interval,
    share_interval,
)


def by_definition(score: list[int], label: list[bool], weight: list[int]) -> float:
    """Count the pairs of a positive and a negative row, each row as often as it was drawn."""
    pairs = won = 0.0
    for s, up, w in zip(score, label, weight, strict=True):
        for t, other, v in zip(score, label, weight, strict=True):
            if up and not other:
                pairs += w * v
                won += w * v * ((s > t) + (s == t) / 2)
    return won / pairs if pairs else np.nan


ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25)


@given(ROWS)
def test_auroc_is_the_share_of_pairs_ranked_rightly_ties_counting_half(
    rows: list[tuple[int, bool, int]],
) -> None:
    score, label, weight = map(list, zip(*rows, strict=True))
    expected = by_definition(score, label, weight)
    assert auroc(score, label)(np.array(weight, dtype=float)) == pytest.approx(expected, nan_ok=True)


def test_a_score_turned_round_has_the_mirrored_auroc() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=50), rng.random(50) < 0.4
    ones = np.ones(50)
    assert auroc(score, label)(ones) == pytest.approx(1 - auroc(-score, label)(ones))


def test_the_same_seed_draws_the_same_interval_and_another_seed_another() -> None:
    values, clusters = np.random.default_rng(1).random(60), np.arange(60) // 3
    first = mean_interval(values, clusters)
    assert first == mean_interval(values, clusters)
    assert first.low != mean_interval(values, clusters, seed=1).low


def test_rows_of_one_prompt_that_agree_count_as_one() -> None:
    """Ten copies of every row leave the interval where it was; as rows of their own they would narrow it."""
    values = np.random.default_rng(2).random(30)
    once = mean_interval(values, np.arange(30))
    copied = mean_interval(np.repeat(values, 10), np.repeat(np.arange(30), 10))
    alone = mean_interval(np.repeat(values, 10), np.arange(300))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    assert alone.high - alone.low < 0.5 * (once.high - once.low)
    assert (copied.n, copied.clusters) == (300, 30)


def test_a_95_percent_interval_of_a_mean_covers_it_about_that_often() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(200):
        found = mean_interval(rng.normal(size=40), np.arange(40), seed=seed)
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_share_without_a_single_exception_still_has_an_interval() -> None:
    found = share_interval(np.ones(40), np.arange(40) // 2)
    assert found.estimate == found.high == 1
    assert found.low**20 == pytest.approx(0.05)
    assert share_interval(np.zeros(40), np.arange(40) // 2).high == pytest.approx(1 - found.low)


EIGHT = np.arange(8)
U = 1 - 0.05 ** (1 / 8)
"""A share that eight prompts would all have missed with probability 5 %."""


@pytest.mark.parametrize(
    ("values", "clusters", "expected"),
    [
        (np.zeros(8), EIGHT, (0, U)),
        (np.ones(8), EIGHT, (1 - U, 1)),
        (np.full(8, 0.1), EIGHT, (0.1 - 0.1 * U, 0.1 + 0.9 * U)),
        ([0, 1] * 8, np.arange(16) // 2, (0.5 - 0.5 * U, 0.5 + 0.5 * U)),
        ([0, 1, 1, 0], [3, 3, 3, 3], (0.5 - 0.475, 0.5 + 0.475)),
    ],
)
def test_a_share_on_which_all_prompts_agree_is_not_certain(
    values: list[float], clusters: list[int], expected: tuple[float, float]
) -> None:
    """None right of 8, all, the same of each, half of each prompt's answers, one prompt alone."""
    found = share_interval(values, clusters)
    assert (found.low, found.high) == pytest.approx(expected)


def test_a_gain_of_nothing_is_not_certain_and_may_go_both_ways() -> None:
    found = mean_interval(np.zeros(8), EIGHT, bounds=(-1.0, 1.0))
    assert (found.low, found.high) == pytest.approx((-U, U))


@pytest.mark.parametrize("value", [0.0, 0.1, 37.0])
def test_a_mean_without_bounds_or_spread_has_no_interval_and_says_so(value: float) -> None:
    found = mean_interval(np.full(8, value), EIGHT)
    assert found.estimate == pytest.approx(value)
    assert np.isnan([found.low, found.high]).all()
    assert shown(found) == f"{value:.3f} (no spread, so no interval) n=8"
    assert "(one prompt, so no interval)" in shown(mean_interval([value, value + 1], [3, 3]))
    assert plain(found) == {"estimate": found.estimate, "low": None, "high": None, "n": 8, "clusters": 8}


def test_a_perfect_ranking_of_few_is_not_certain() -> None:
    label = EIGHT >= 4
    found = bootstrap(auroc(EIGHT, label), EIGHT, bounds=(0.0, 1.0))
    assert (found.estimate, found.low, found.high) == pytest.approx((1, 1 - U, 1))


def test_a_difference_without_spread_has_an_interval_within_its_bounds() -> None:
    values, of = np.tile([0.5, 0.25], 8), np.tile([True, False], 8)
    found = difference_interval(values, of, np.arange(16) // 2, bounds=(-2.0, 2.0))
    assert (found.low, found.high) == pytest.approx((0.25 - 2.25 * U, 0.25 + 1.75 * U))


def test_an_estimate_beyond_its_bounds_keeps_an_end_of_its_own() -> None:
    """The pooled cosine is free of bias and may exceed 1 a little."""
    found = mean_interval(np.full(8, 1.02), EIGHT, bounds=(-1.0, 1.0))
    assert (found.low, found.high) == pytest.approx((1.02 - 2.02 * U, 1.02))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=12), st.integers(1, 4))
def test_no_share_has_an_interval_of_width_zero(values: list[float], size: int) -> None:
    found = share_interval(values, np.arange(len(values)) // size)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert found.high - found.low > 1e-6


def test_undefined_values_are_left_out_and_counted_out() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    found = mean_interval(values, [0, 0, 1, 2])
    assert (found.estimate, found.n, found.clusters) == (2.0, 2, 2)


def test_no_rows_at_all_is_undefined_and_no_error() -> None:
    assert mean_interval([], []).n == 0
    assert np.isnan(bootstrap(auroc([], []), []).estimate)


def test_a_difference_is_that_of_the_two_means() -> None:
    found = difference_interval([1.0, 2.0, 5.0, 7.0], [True, True, False, False], [0, 1, 2, 3])
    assert found.estimate == -4.5
    assert found.low <= -4.5 <= found.high
