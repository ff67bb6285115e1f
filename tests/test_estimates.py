"""pass@k, maj@n and averages against closed forms; intervals that cover, and are never of width 0."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from selfteach.errors import UserError
from selfteach.task.example import Example, Grade
from selfteach.training.text.estimates import Z, default_ks, estimated, estimates, majority, pass_at_k
from selfteach.training.text.evaluation import Answered, result


def answered(reward: float, claim: str | None = None) -> Answered:
    return Answered(Example("k", ()), [], [], "", True, Grade(reward, claim=claim))


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        right = [i < c for i in range(n)]
        for k in range(1, n + 1):
            subsets = [any(one) for one in combinations(right, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over the binomial of 5 answers, each right with probability 0.3, is 1 − 0.7ᵏ."""
    n, p = 5, 0.3
    for k in (1, 2, 4):
        mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_k_of_many_answers_does_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1)])
def test_pass_at_k_refuses_what_there_is_not(n: int, c: int, k: int) -> None:
    with pytest.raises(UserError, match="k must lie"):
        pass_at_k(n, c, k)


def test_the_majority_is_the_claim_of_most_answers() -> None:
    assert majority([answered(1, "4"), answered(1, " 4 "), answered(0, "5")]) == 1
    assert majority([answered(1, "4"), answered(0, "5"), answered(0, "5")]) == 0
    assert majority([answered(1, "4"), answered(0, "5"), answered(0, None)]) == 0.5
    assert majority([answered(0, None), answered(0, None), answered(1, "4")]) == 1
    assert majority([answered(0, None)]) == 0


def test_estimates_of_two_problems() -> None:
    """Right 3 of 4 and 0 of 4: average 3/8, pass@2 (1 + 0)/2, majority 1/2, greedy 1."""
    first = [answered(1, "7"), answered(0, "8"), answered(1, "7"), answered(1, "7")]
    second = [answered(0, "1"), answered(0, "1"), answered(0, "2"), answered(0, None)]
    found = {one.measure: one for one in estimates([*first, *second], 4, (2, 3), [answered(1), answered(1)])}
    assert {name: one.value for name, one in found.items()} == {
        "average@4": 0.375, "pass@2": 0.5, "pass@3": 0.5, "maj@4": 0.5, "greedy": 1.0,
    }  # fmt: skip
    assert all(one.problems == 2 for one in found.values())
    assert found["average@4"].value == result([*first, *second], 4).accuracy
    with pytest.raises(UserError, match="pass@5 needs 5 samples"):
        estimates([*first, *second], 4, (5,))


def test_one_sample_is_an_accuracy_and_without_claims_nobody_votes() -> None:
    assert [one.measure for one in estimates([answered(1), answered(0)], 1)] == ["accuracy"]
    assert [one.measure for one in estimates([answered(1), answered(0)], 2)] == ["average@2", "pass@2"]


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, []), (2, [2]), (4, [2, 4]), (6, [2, 4, 6]), (16, [2, 4, 8, 16])]
)
def test_pass_at_powers_of_two_and_at_all_samples(samples: int, ks: list[int]) -> None:
    assert default_ks(samples) == ks


def test_of_a_share_the_interval_is_agresti_and_coulls() -> None:
    """With ñ = n + z², p̃ = (x + z²/2)/ñ: p̃ ± z √(p̃(1−p̃)/ñ)."""
    one = estimated("accuracy", [1.0] * 7 + [0.0] * 13)
    n, p = 20 + Z**2, (7 + Z**2 / 2) / (20 + Z**2)
    half = Z * math.sqrt(p * (1 - p) / n)
    assert (one.low, one.high) == pytest.approx((p - half, p + half))


@pytest.mark.parametrize("scores", [[0.0], [1.0], [0.5], [0.0] * 5, [1.0] * 30, [0.25] * 400, [0.5, 0.5]])
def test_no_interval_has_width_zero_and_each_holds_its_estimate(scores: list[float]) -> None:
    one = estimated("accuracy", scores)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.high - one.low > 0.01


def test_means_that_differ_little_have_a_narrower_interval_than_shares() -> None:
    means, shares = estimated("m", [0.4, 0.6] * 50), estimated("s", [0.0, 1.0] * 50)
    assert means.high - means.low < 0.5 * (shares.high - shares.low)


@pytest.mark.parametrize(("n", "share"), [(5, 0.5), (10, 0.1), (10, 0.9), (30, 0.02), (30, 0.5)])
def test_the_interval_covers_the_truth_in_nineteen_of_twenty_evaluations(n: int, share: float) -> None:
    rng = random.Random(0)
    drawn = [estimated("a", [float(rng.random() < share) for _ in range(n)]) for _ in range(2000)]
    assert sum(one.low <= share <= one.high for one in drawn) / 2000 > 0.92


def test_rewards_that_are_no_shares_have_a_mean_with_standard_errors() -> None:
    one = estimated("average@1", [-1.0, 3.0, 1.0, 1.0])
    half = Z * math.sqrt((4 + 4) / 3 / 4)
    assert (one.value, one.low, one.high) == pytest.approx((1.0, 1 - half, 1 + half))
    assert math.isnan(estimated("average@1", [-1.0]).low)
    assert math.isnan(estimated("average@1", [2.0, 2.0]).high)
