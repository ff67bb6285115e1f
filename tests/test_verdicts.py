"""Verdicts: Student's t against tables, false verdicts counted by simulation, looks, intervals, the table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from selfteach.errors import UserError
from selfteach.studies.student import quantile, tail
from selfteach.studies.verdict import (
    MOST_SEEDS,
    RATE,
    Evidence,
    Exceeds,
    Rule,
    Within,
    evidence,
    interval,
    level_of,
    looks,
    seeds_needed,
    share,
    spread_out,
)

# Published tables of Student's t: (degrees of freedom, share beyond, value).
TABLE = [
    (1, 0.05, 6.314), (2, 0.05, 2.920), (3, 0.05, 2.353), (4, 0.05, 2.132), (7, 0.05, 1.895), (15, 0.05, 1.753),
    (30, 0.05, 1.697), (1, 0.025, 12.706), (3, 0.025, 3.182), (7, 0.025, 2.365), (15, 0.025, 2.131),
    (3, 0.0005, 12.924), (7, 0.0005, 5.408), (15, 0.0005, 4.073), (120, 0.025, 1.980),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "beyond", "value"), TABLE)
def test_students_quantiles_are_those_of_the_tables(freedom: int, beyond: float, value: float) -> None:
    assert quantile(beyond, freedom) == pytest.approx(value, abs=6e-4)
    assert tail(quantile(beyond, freedom), freedom) == pytest.approx(beyond, rel=1e-9)


def test_students_tail_in_closed_form_and_at_its_ends() -> None:
    for t in (-3.0, -0.5, 0.0, 1.0, 7.0):
        assert tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-14)
        assert tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-14)
        assert tail(t, 5) + tail(-t, 5) == pytest.approx(1, abs=1e-14)
    assert (tail(math.inf, 3), tail(-math.inf, 3)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="no tail"):
        tail(math.nan, 3)


# --- one claim


def test_claims_are_looked_at_with_four_seeds_then_twice_as_many() -> None:
    assert [looks(n) for n in (3, 4, 7, 16, 40)] == [[], [4], [4], [4, 8, 16], [4, 8, 16, 32]]


def test_the_looks_share_the_error_between_them_and_never_exceed_it() -> None:
    assert [share(k) for k in range(5)] == [0.25, 0.25, 0.25, 0.125, 0.0625]
    assert sum(map(share, range(60))) == pytest.approx(1, abs=1e-12)


def test_the_first_look_is_students_t_over_its_share() -> None:
    differences = [1.0, 2.0, 3.0, 4.0]
    t = 2.5 / (np.std(differences, ddof=1) / 2)
    assert evidence(Exceeds(), differences).p == pytest.approx(2 * tail(t, 3) * 4)


def test_seeds_behind_the_last_look_do_not_count() -> None:
    differences = [1.0, 2.0, 3.0, 4.0]
    first = evidence(Exceeds(), differences)
    assert evidence(Exceeds(), [*differences, -50.0, 9.0, -9.0]) == first
    assert evidence(Exceeds(), differences[:3]) == Evidence()


def test_p_only_falls_as_seeds_are_added() -> None:
    """So a claim that is decided needs none, and none of a table's verdicts is taken back."""
    random = np.random.default_rng(1)
    for row in random.normal(0.5, 1, size=(200, 32)):
        ps = [evidence(Exceeds(), list(row[:n])).p for n in (4, 8, 16, 32)]
        assert ps == sorted(ps, reverse=True)


SIZES: list[tuple[Rule, float]] = [
    (Exceeds(), 0.0),
    (Within(1.0), 1.0),
    (Within(1.0), -1.0),
    (Within(0.05), 0.05),
]
# Of the mean: the verdicts that would be false.
FALSE: list[tuple[float, set[str]]] = [
    (0.0, {"reproduced", "refuted"}),
    (0.4, {"refuted"}),
    (1.0, {"refuted", "equal"}),
    (-1.0, {"reproduced", "equal"}),
]


def test_a_direction_that_was_shown_is_never_taken_back_for_being_small() -> None:
    small = [0.008, 0.012, 0.010, 0.011, 0.009, 0.010, 0.012, 0.008]
    found = evidence(Exceeds(margin=0.03), small)
    assert found.values["equal"] < found.values["reproduced"] < 1e-5
    assert found.verdict(0.05) == "reproduced"
    assert found.verdict(found.values["equal"]) == "equal"
    four, eight = [0.014, 0.017, 0.018, 0.019], [0.008, 0.010, 0.009, 0.011]
    seen = [evidence(Exceeds(margin=0.03), one).verdict(0.05) for one in (four, four + eight[:4])]
    assert seen == ["reproduced", "reproduced"]


@pytest.mark.parametrize(("mean", "false"), FALSE)
def test_with_a_margin_a_false_verdict_is_as_rare_whatever_the_true_mean(
    mean: float, false: set[str]
) -> None:
    random = np.random.default_rng(0)
    found = [evidence(Exceeds(margin=1.0), list(row)) for row in random.normal(mean, 1, size=(4000, 16))]
    assert np.mean([one.verdict(0.05) in false for one in found]) <= 0.05


def test_with_a_margin_what_is_neither_way_is_found_equal_and_what_is_one_way_is_not() -> None:
    random = np.random.default_rng(0)
    for mean, leaning in ((0.0, "equal"), (2.0, "reproduced"), (-2.0, "refuted")):
        found = [evidence(Exceeds(margin=1.2), list(row)) for row in random.normal(mean, 1, size=(500, 16))]
        assert np.mean([one.verdict(0.05) == leaning for one in found]) > 0.8, mean


@pytest.mark.parametrize(("rule", "mean"), SIZES)
def test_where_nothing_is_to_be_seen_a_verdict_at_any_look_is_as_rare_as_promised(
    rule: Rule, mean: float
) -> None:
    """Three looks at normal differences, where claim and opposite meet: stopped at the first that would decide."""
    random = np.random.default_rng(0)
    seen = [evidence(rule, list(row)).p <= 0.05 for row in random.normal(mean, 1, size=(4000, 16))]
    assert 0.005 < np.mean(seen) <= 0.05


def test_one_look_too_many_is_what_the_shares_are_for() -> None:
    """Unshared, the same looks are false more often than 5 %: the simulation would see a wrong bound."""
    random = np.random.default_rng(0)
    least = [
        min(2 * min(Exceeds().p_values(list(row[:n])).values()) for n in (4, 8, 16))
        for row in random.normal(size=(4000, 16))
    ]
    assert np.mean(np.array(least) <= 0.05) > 0.08


@pytest.mark.parametrize(
    ("rule", "differences", "p", "leaning"),
    [
        (Exceeds(), [0.8, 0.79, 0.78, 0.81], 0.001, "reproduced"),
        (Exceeds(), [-0.8, -0.79, -0.78, -0.81], 0.001, "refuted"),
        (Exceeds(), [0.05, 0.1, -0.15, 0.02], 1.0, None),
        (Exceeds(), [0.0] * 4, 1.0, None),
        (Exceeds(), [0.5] * 4, 1.0, None),
        (Within(0.1), [0.0, 0.001, -0.001, 0.002], 0.001, "reproduced"),
        (Within(0.1), [0.4, 0.401, 0.399, 0.402], 0.001, "refuted"),
        (Within(0.1), [-0.4, -0.401, -0.399, -0.402], 0.001, "refuted"),
        (Within(0.1), [0.0, 0.2, -0.2, 0.1], 1.0, None),
        (Within(0.1), [0.0] * 4, 1.0, None),
    ],
)
def test_a_rule_says_what_speaks_for_a_claim_and_what_against(
    rule: Rule, differences: Sequence[float], p: float, leaning: str | None
) -> None:
    found = evidence(rule, differences)
    assert found.p <= p if leaning else found.p == 1.0
    assert found.verdict(p) == leaning or leaning is None


@pytest.mark.parametrize("n", [4, 8, 5])
def test_equal_differences_are_taken_to_spread_by_what_can_be_told_apart(n: int) -> None:
    drawn = spread_out([0.5] * n, 0.01)
    assert (np.mean(drawn), np.std(drawn, ddof=1)) == (pytest.approx(0.5), pytest.approx(0.01))
    wider = spread_out([0.5, 0.5, 0.5, 0.5001], 0.01)
    assert (np.mean(wider), np.std(wider, ddof=1)) == (pytest.approx(0.500025), pytest.approx(0.01))
    assert spread_out([0.5, 0.6], 0.01) == [0.5, 0.6]


@pytest.mark.parametrize(
    ("rule", "difference", "distance"), [(Exceeds(), 1 / 512, 1 / 512), (Within(0.1), 0.0, 0.1)]
)
def test_without_a_spread_no_p_is_0(rule: Rule, difference: float, distance: float) -> None:
    """Four times one answer more of 512 is not sure at all, and what is sure has a p-value still."""
    p = evidence(rule, [difference] * 4, 1 / 512).p
    assert p == pytest.approx(2 * tail(distance * 512 * 2, 3) * 4)
    assert p > (0.05 if distance < 0.1 else 0.0)
    low, high = interval([difference] * 4, resolution=1 / 512) or (0.0, 0.0)
    assert high - low > 1 / 512


def test_a_tolerance_of_nothing_and_a_margin_below_it_are_refused() -> None:
    with pytest.raises(UserError, match="tolerance"):
        Within(0.0)
    with pytest.raises(UserError, match="margin"):
        Exceeds(-0.1)


def test_the_interval_holds_the_mean_at_least_as_often_as_it_says_whenever_one_stops() -> None:
    random = np.random.default_rng(2)
    held = []
    for row in random.normal(0.3, 1, size=(2000, 16)):
        stop = next((n for n in (4, 8) if evidence(Exceeds(), list(row[:n])).p <= RATE), 16)
        between = interval(list(row[:stop]))
        assert between is not None
        held.append(between[0] <= 0.3 <= between[1])
    assert np.mean(held) >= 0.95


def test_the_interval_is_students_at_the_looks_share() -> None:
    low, high = interval([1.0, 2.0, 3.0, 4.0]) or (0.0, 0.0)
    reach = quantile(0.05 / 8, 3) * np.std([1, 2, 3, 4], ddof=1) / 2
    assert (low, high) == (pytest.approx(2.5 - reach), pytest.approx(2.5 + reach))
    assert interval([1.0, 2.0, 3.0]) is None


def test_the_seeds_that_would_decide_follow_from_effect_and_spread() -> None:
    differences = [0.5 + 1.0, 0.5 - 1.0] * 4
    needed = seeds_needed(Exceeds(), differences, 0.05)
    assert needed == 64
    deviation = float(np.std(differences, ddof=1))

    def p(n: int) -> float:
        return 2 * tail(0.5 * math.sqrt(n) / deviation, n - 1) / share(looks(n).index(n))

    assert p(64) <= 0.05 < p(32)
    assert seeds_needed(Exceeds(), [1.0, -1.0] * 4, 0.05) is None
    assert seeds_needed(Exceeds(), [0.05 + 1.0, 0.05 - 1.0] * 4, 0.05) is None, (
        "4096 would, which nobody can ask for"
    )
    assert looks(1000)[-1] == MOST_SEEDS
    assert seeds_needed(Exceeds(), [1 / 512] * 4, 0.05, 1 / 512) == 16
    assert seeds_needed(Exceeds(0.1), [1e-3, -1e-3, 0.0, 0.0], 0.05) == 4
    assert seeds_needed(Within(0.1), [1e-3, -1e-3, 0.0, 0.0], 0.05) == 4


# --- a table


def test_a_tables_level_is_benjamini_and_hochbergs() -> None:
    """Their own example of 15 p-values (1995): the four smallest stand at 5 %."""
    example = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590,
        1.0,
    ]  # fmt: skip
    level = level_of(example)
    assert level == pytest.approx(0.05 * 4 / 15)
    assert sum(p <= level for p in example) == 4
    assert level_of([0.04]) == 0.05
    assert level_of([1.0, 1.0]) == 0.025


def test_of_a_tables_verdicts_at_most_five_percent_are_false() -> None:
    """30 claims of which 10 hold, each looked at with 4, 8 and 16 seeds, those decided early left alone."""
    random = np.random.default_rng(3)
    false = []
    for _ in range(150):
        means = np.array([1.5] * 10 + [0.0] * 20)
        rows = random.normal(means[:, None], 1, size=(30, 16))
        known = [4] * 30
        for look in (4, 8, 16):
            ps = [evidence(Exceeds(), list(row[:n])).p for row, n in zip(rows, known, strict=True)]
            level = level_of(ps)
            known = [n if p <= level else min(2 * look, 16) for n, p in zip(known, ps, strict=True)]
        stands = np.array(ps) <= level_of(ps)
        false.append(stands[10:].sum() / max(1, stands.sum()))
    assert np.mean(false) <= 0.05
    assert stands[:10].sum() >= 8
