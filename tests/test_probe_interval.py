"""AUROC against its definition, and what the cluster bootstrap promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
