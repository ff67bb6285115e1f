"""What a recipe may read: columns that are NaN where nothing was seen, and what is made of columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.gate import ImportanceRatio
from selfteach.objective.statistics import Statistics
from selfteach.objective.support import TopK
from selfteach.objective.uniform import uniform

ROWS, STEPS, VOCABULARY = 4, 5, 7
MASK = torch.arange(STEPS) < torch.tensor([[5], [2], [0], [4]])
NAN = torch.nan


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = {
    name: random(ROWS, STEPS, VOCABULARY, seed=seed) for seed, name in enumerate(("student", "teacher"))
}
IDS = torch.randint(VOCABULARY, (ROWS, STEPS), generator=torch.Generator().manual_seed(5))
BARE = Columns(IDS, MASK, precision=torch.float64)


def statistics(columns: Columns = BARE, logits: dict[str, Tensor] = LOGITS, **options: Any) -> Statistics:
    batch = ScoredBatch.padded(columns, {name: Scored(x) for name, x in logits.items()})
    return Statistics.of(batch, **options)


def log_prob(role: str) -> Tensor:
    return LOGITS[role].log_softmax(-1).gather(-1, IDS.unsqueeze(-1)).squeeze(-1)


def only(column: Tensor, where: Tensor) -> Tensor:
    return column.masked_fill(~where, NAN)


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, equal_nan=True)


# --- what is measured --------------------------------------------------------------------------------------------


def test_measured_columns_are_nan_where_nothing_was_written_seen_or_asked_for() -> None:
    seen = torch.tensor([True, False, True, True])
    rows = torch.tensor([True, True, True, False])
    stats = statistics(replace(BARE, available={"teacher": seen}), rows=rows)
    update = MASK & rows.unsqueeze(1)
    assert torch.equal(stats.mask, update)
    assert torch.equal(stats.columns.mask, MASK)
    assert_equal(stats.log_prob(), only(log_prob("student"), update))
    assert_equal(stats.log_prob("teacher"), only(log_prob("teacher"), update & seen.unsqueeze(1)))
    assert torch.equal(stats.seen("teacher"), update & seen.unsqueeze(1))
    for column in (stats.entropy("teacher"), stats.divergence("teacher", ForwardKL())):
        assert torch.equal(column.isnan(), ~stats.seen("teacher"))


def test_a_role_may_see_some_positions_of_a_row() -> None:
    seen = torch.arange(STEPS).expand(ROWS, STEPS) > 0
    stats = statistics(replace(BARE, available={"teacher": seen}))
    assert_equal(stats.log_prob("teacher"), only(log_prob("teacher"), MASK & seen))
    assert stats.available("teacher").all()


def test_what_stands_where_a_role_saw_nothing_is_never_read() -> None:
    seen = torch.tensor([True, False, True, True])
    poisoned = {**LOGITS, "teacher": LOGITS["teacher"].masked_fill(~seen.view(-1, 1, 1), NAN)}
    stats = statistics(replace(BARE, available={"teacher": seen}), poisoned)
    assert_equal(stats.log_prob("teacher"), only(log_prob("teacher"), MASK & seen.unsqueeze(1)))


@pytest.mark.parametrize("support", [None, TopK(3, of="student"), TopK(3, of="teacher", tail="drop")])
def test_a_nan_that_a_role_gives_stays_one(support: TopK | None) -> None:
    broken = {**LOGITS, "teacher": LOGITS["teacher"].clone()}
    broken["teacher"][0, 1, 2] = NAN
    stats = statistics(logits=broken)
    whole = statistics().divergence("teacher", ReverseKL(clip_token=0.5), support)
    there = torch.zeros_like(MASK)
    there[0, 1] = True
    assert_equal(stats.divergence("teacher", ReverseKL(clip_token=0.5), support), only(whole, ~there))
    for column in (stats.log_prob("teacher"), stats.entropy("teacher")):
        assert torch.equal(column.isnan(), ~MASK | there)


def test_log_probs_that_were_handed_over_are_a_column_like_the_measured_ones() -> None:
    seen = torch.tensor([True, False, True, True])
    columns = replace(BARE, log_probs={"teacher": log_prob("teacher")}, available={"teacher": seen})
    stats = statistics(columns, {"student": LOGITS["student"]})
    assert_equal(stats.log_prob("teacher"), only(log_prob("teacher"), MASK & seen.unsqueeze(1)))


def test_a_distribution_of_which_only_sampled_log_probs_were_given_is_refused_by_role() -> None:
    columns = replace(BARE, log_probs={"teacher": log_prob("teacher")})
    stats = statistics(columns, {"student": LOGITS["student"]})
    said = "distribution of 'teacher' is read .*only log-probs of its sampled tokens were given"
    with pytest.raises(ValueError, match=said):
        stats.entropy("teacher")
    with pytest.raises(ValueError, match=said):
        stats.divergence("teacher", ReverseKL())


def test_a_role_that_is_not_scored_has_nothing_to_read() -> None:
    stats = statistics(logits={"student": LOGITS["student"]})
    assert not stats.available("teacher").any()
    assert not stats.seen("teacher").any()
    with pytest.raises(ValueError, match="log_prob/teacher is read"):
        stats.log_prob("teacher")


def test_the_old_policy_is_the_present_one_until_the_first_update() -> None:
    assert_equal(statistics().old_log_prob(), statistics().log_prob())
    before = random(ROWS, STEPS, seed=9)
    later = statistics(old={"student": before})
    assert_equal(later.old_log_prob(), only(before, MASK))
    assert_equal(later.behavior_log_prob, only(before, MASK))
    with pytest.raises(ValueError, match="old_log_probs lack 'teacher'"):
        later.old_log_prob("teacher")


def test_the_behavior_is_what_was_recorded_nan_and_all() -> None:
    recorded = random(ROWS, STEPS, seed=9)
    recorded[0, 0] = NAN
    stats = statistics(replace(BARE, behavior=recorded), old={"student": recorded})
    assert_equal(stats.behavior_log_prob, recorded)
    gate = stats.importance(2.0)
    assert isinstance(gate, ImportanceRatio)
    assert gate.behavior is recorded
    assert statistics().importance() is None
    assert statistics(old={"student": recorded}).importance() is not None


# --- what the batch says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["group", "reward", "turn", "pair", "correct"])
def test_a_column_that_the_batch_lacks_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="reward" if name == "correct" else name):
        getattr(statistics(), name)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda stats: stats.mark("key"), "marks lack 'key'"),
        (lambda stats: stats.number("score"), "numbers lack 'score'"),
        (lambda stats: stats.origin("data"), "origin"),
        (lambda stats: stats.special("eos"), "special lacks 'eos'"),
        (lambda stats: stats.group_mean(torch.ones(ROWS)), "group"),
        (lambda stats: stats.turn_mean(stats.log_prob()), "turn"),
    ],
)
def test_a_named_column_that_the_batch_lacks_is_named(read: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(statistics())


@pytest.mark.parametrize("value", [NAN, torch.inf, -torch.inf])
def test_a_reward_that_is_no_number_is_refused(value: float) -> None:
    reward = torch.tensor([0.0, 1.0, value, 1.0])
    with pytest.raises(ValueError, match="reward"):
        _ = statistics(replace(BARE, reward=reward)).correct


def test_what_stands_beside_rows_and_tokens_is_read_by_name() -> None:
    columns = replace(
        BARE,
        pair=torch.tensor([1, -1, -1, 0]),
        origin=("student", "data", "student", "teacher"),
        numbers={"score": torch.arange(4.0)},
        special={"eos": int(IDS[0, 0])},
    )
    stats = statistics(columns)
    assert stats.pair.tolist() == [1, -1, -1, 0]
    assert stats.origin("student").tolist() == [True, False, True, False]
    assert stats.number("score").tolist() == [0, 1, 2, 3]
    assert torch.equal(stats.special("eos"), IDS[0, 0] == IDS)


def test_a_recipe_may_report_numbers() -> None:
    stats = statistics()
    stats.report("share", torch.tensor(0.25))
    assert stats.metrics == {"share": 0.25}


# --- what is made of columns -------------------------------------------------------------------------------------


def test_a_turns_mean_stands_on_its_tokens() -> None:
    turn = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0] * 5, [0, 2, 0, 2, 9]])
    column = torch.arange(20.0, dtype=torch.float64).reshape(ROWS, STEPS)
    expected = torch.tensor(
        [[0.5, 0.5, 3, 3, 3], [5, 6, NAN, NAN, NAN], [NAN] * 5, [16, 17, 16, 17, NAN]], dtype=torch.float64
    )
    assert_equal(statistics(replace(BARE, turn=turn)).turn_mean(column), expected)


def test_the_first_token_of_a_trajectory_is_that_of_its_earliest_turn() -> None:
    """Rows 0 and 3 are turns 1 and 0 of one trajectory; row 1 is one of its own, row 2 wrote nothing."""
    column = torch.arange(20.0, dtype=torch.float64).reshape(ROWS, STEPS)
    turn = torch.tensor([[1] * 5, [0] * 5, [0] * 5, [0, 0, 1, 1, 1]])
    columns = replace(BARE, turn=turn, trajectory=torch.tensor([7, 2, 3, 7]))
    stats = statistics(columns)
    expected = torch.tensor([15, 5, NAN, 15], dtype=torch.float64)
    assert_equal(stats.first_of_trajectory(column), expected)
    assert_equal(stats.first_of_trajectory(column, turn == 1), torch.tensor([0, NAN, NAN, 0]).double())
    alone = statistics(columns, rows=torch.tensor([True, True, True, False]))
    assert_equal(alone.first_of_trajectory(column), torch.tensor([0, 5, NAN, 0]).double())
    bare = torch.tensor([0, 5, NAN, 15], dtype=torch.float64)
    assert_equal(statistics().first_of_trajectory(column), bare)
    empty = Columns(IDS[:, :0], MASK[:, :0], precision=torch.float64)
    assert_equal(
        statistics(empty, {"student": LOGITS["student"][:, :0]}).first_of_trajectory(column[:, :0]),
        torch.full((ROWS,), NAN).double(),
    )


def test_the_first_row_of_a_trajectory_stands_for_it() -> None:
    stats = statistics(replace(BARE, trajectory=torch.tensor([7, 2, 7, 2])))
    assert stats.first_rows.tolist() == [True, True, False, False]
    assert statistics(rows=torch.tensor([True, False, True, True])).first_rows.all()
    empty = Columns(IDS[:, :0], MASK[:, :0], precision=torch.float64)
    assert statistics(empty, {"student": LOGITS["student"][:, :0]}).first_rows.tolist() == [True] * ROWS


def test_a_trajectorys_sum_is_over_its_rows() -> None:
    values = torch.tensor([1.0, 2, 4, 8])
    stats = statistics(replace(BARE, trajectory=torch.tensor([7, 2, 3, 7])))
    assert stats.trajectory_sum(values).tolist() == [9, 2, 4, 9]
    assert statistics().trajectory_sum(values).tolist() == [1, 2, 4, 8]


def test_units_add_up_over_rows_spans_and_both() -> None:
    stats = statistics()
    p = log_prob("student")
    by_row = torch.tensor([1, 0, 3, 1])
    expected = torch.stack([p[1, :2].sum(), p[0].sum() + p[3, :4].sum(), p.new_zeros(()), p.new_zeros(())])
    assert_equal(stats.unit_sum(by_row), expected)
    spans = torch.full((ROWS, STEPS), -1)
    spans[0, 1:3], spans[3, 2:] = 0, 1
    assert_equal(stats.unit_sum(spans, "teacher"), torch.stack([x.sum() for x in (
        log_prob("teacher")[0, 1:3], log_prob("teacher")[3, 2:4])]))  # fmt: skip


def test_a_unit_outside_the_update_has_no_sum() -> None:
    sums = statistics(rows=torch.tensor([True, True, True, False])).unit_sum(torch.tensor([0, 1, -1, 2]))
    assert sums.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 1.0])
def test_a_quantile_is_torchs_over_the_written_tokens(q: float) -> None:
    column = random(ROWS, STEPS, seed=3)
    stats = statistics(rows=torch.tensor([True, True, True, False]))
    assert_equal(stats.quantile(only(column, MASK), q), column[:2][MASK[:2]].quantile(q))
    assert_equal(stats.quantile(column[:, 0], q), column[:3, 0].quantile(q))
    among = column > 0
    assert_equal(stats.quantile(column, q, among), column[stats.mask & among].quantile(q))
    assert stats.quantile(column, q, torch.zeros_like(MASK)).isnan()


def test_the_highest_of_a_row_are_so_many_of_its_written_tokens() -> None:
    column = torch.tensor([[3.0, 5, 5, 1, 4], [1, 2, 9, 9, 9], [0] * 5, [-torch.inf, 0, 1, 2, 9]])
    stats = statistics()
    assert stats.row_top(column, 2).nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 1], [3, 2], [3, 3]]
    assert stats.row_top(column, 0.5).sum(1).tolist() == [2, 1, 0, 2]
    assert torch.equal(stats.row_top(column, np.float32(0.5)), stats.row_top(column, 0.5))  # type: ignore[arg-type]
    assert torch.equal(stats.row_top(column, np.int64(2)), stats.row_top(column, 2))  # type: ignore[arg-type]
    assert torch.equal(stats.row_top(column, 1.0), MASK)
    assert torch.equal(stats.row_top(column, 99), MASK)
    assert stats.row_top(column, 1, among=column < 5).nonzero().tolist() == [[0, 4], [1, 1], [3, 3]]


def test_comparisons_refuse_nan_among_what_they_compare() -> None:
    stats, column = statistics(), torch.full((ROWS, STEPS), NAN)
    with pytest.raises(ValueError, match="quantile: the column is NaN"):
        stats.quantile(column, 0.5)
    with pytest.raises(ValueError, match="row_top: the column is NaN"):
        stats.row_top(column, 1)
    with pytest.raises(ValueError, match="q must lie"):
        stats.quantile(torch.zeros(ROWS, STEPS), 1.5)


def test_what_is_to_come_is_summed_over_the_written_tokens_from_each_to_the_last() -> None:
    column = torch.tensor([[1.0, 2, 3, 4, 5], [7, 1, NAN, NAN, NAN], [NAN] * 5, [0, -1, 2, 4, NAN]])
    whole = [[15, 14, 12, 9, 5], [8, 1, NAN, NAN, NAN], [NAN] * 5, [5, 5, 6, 4, NAN]]
    halves = [[3.5625, 5.125, 6.25, 6.5, 5], [7.5, 1, NAN, NAN, NAN], [NAN] * 5, [0.5, 1, 4, 4, NAN]]
    stats = statistics()
    assert_equal(stats.to_go(column), torch.tensor(whole))
    assert_equal(stats.to_go(column, 0.5), torch.tensor(halves))
    assert_equal(stats.to_go(column, 0.0), only(column, MASK))
    among = torch.tensor([[True, False, True, False, True]]).expand(ROWS, STEPS)
    expected = [[9.0, NAN, 8, NAN, 5], [7, *[NAN] * 4], [NAN] * 5, [2, NAN, 2, NAN, NAN]]
    assert_equal(stats.to_go(column, among=among), torch.tensor(expected))
    # The discount counts tokens that are selected: an unseen one between two is no step.
    assert stats.to_go(column, 0.5, among)[0, 0] == 1 + 0.5 * 3 + 0.25 * 5


def test_a_token_that_is_no_number_spoils_what_stands_before_it() -> None:
    column = torch.ones(ROWS, STEPS)
    column[0, 2] = NAN
    for discount in (1.0, 0.9):
        assert statistics().to_go(column, discount)[0].isnan().tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("discount", [-0.1, 1.5, NAN])
def test_a_discount_that_cannot_be_meant_is_refused(discount: float) -> None:
    with pytest.raises(ValueError, match="discount must lie"):
        statistics().to_go(torch.zeros(ROWS, STEPS), discount)


def test_standardized_tokens_and_rows_have_mean_0_and_deviation_1() -> None:
    column, rows = random(ROWS, STEPS, seed=4), torch.tensor([True, True, True, False])
    stats = statistics(rows=rows)
    among = column < 1
    for given, selected, over in (
        (only(column, MASK), None, stats.mask), (column, among, stats.mask & among), (column[:, 0], None, rows),
    ):  # fmt: skip
        chosen = column[over] if given.dim() == 2 else column[:, 0][rows]
        expected = (chosen - chosen.mean()) / chosen.std(correction=0)
        found = stats.standardized(given, selected)
        assert_equal(found[over], expected)
        assert found[~over].isnan().all()


def test_one_number_alone_is_standardized_to_0_and_none_to_nothing() -> None:
    stats, column = statistics(), torch.full((ROWS, STEPS), 3.0)
    assert stats.standardized(column[:, 0], torch.arange(ROWS) == 1)[1] == 0
    assert (stats.standardized(column)[MASK] == 0).all()
    assert stats.standardized(column, torch.zeros_like(MASK)).isnan().all()
    with pytest.raises(ValueError, match="standardized: the column is NaN"):
        stats.standardized(torch.full((ROWS, STEPS), NAN))


def test_a_gradient_of_single_records_knows_no_statistic_of_the_batch() -> None:
    stats = statistics()
    stats.record = True
    for read in (stats.standardized, lambda column: stats.quantile(column, 0.5)):
        with pytest.raises(ValueError, match="single records"):
            read(torch.zeros(ROWS, STEPS))


def test_group_statistics_look_at_the_rows_they_are_told_to() -> None:
    stats = statistics(replace(BARE, group=torch.tensor([4, 4, 4, 7])))
    values = torch.tensor([1.0, 3.0, NAN, 5.0])
    among = torch.tensor([True, True, False, True])
    assert_equal(stats.group_sum(values, among), torch.tensor([4.0, 4, 4, 5]))
    assert_equal(stats.group_mean(values, among), torch.tensor([2.0, 2, 2, 5]))
    assert_equal(stats.group_std(values, among), torch.tensor([2**0.5] * 3 + [0.0]))
    assert_equal(stats.group_mean(values, ~among & among), torch.full((4,), NAN))
    assert stats.group_mean(values).isnan().tolist() == [True, True, True, False]


# --- randomness --------------------------------------------------------------------------------------------------


def test_random_numbers_belong_to_places_and_not_to_how_the_batch_is_cut() -> None:
    ours = statistics(step=3, seed=1).random("mask")
    assert ours.dtype == torch.float64
    wider = Columns(torch.zeros(ROWS + 2, STEPS + 4, dtype=torch.long), torch.zeros(ROWS + 2, STEPS + 4).bool(),
                    precision=torch.float64)  # fmt: skip
    padded = Statistics(wider, step=3, temperature=1.0, roles=[], measure=lambda _: {}, seed=1).random("mask")
    assert torch.equal(padded[:ROWS, :STEPS], ours)
    others = [statistics(step=2, seed=1), statistics(step=3, seed=2), statistics(step=3, seed=1)]
    for other, name in zip(others, ("mask", "mask", "drop"), strict=True):
        assert (other.random(name) != ours).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_uniform_and_independent_along_rows_and_steps(dtype: torch.dtype) -> None:
    drawn = uniform("key", 400, 500, dtype, torch.device("cpu"))
    assert drawn.dtype == dtype
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    counts = torch.histc(drawn.double(), 20, 0, 1)
    chi_square = ((counts - 1e4) ** 2 / 1e4).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001
    for one, other in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        pair = torch.stack([one.flatten(), other.flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 0.01


def test_float32_holds_the_same_numbers_and_never_one() -> None:
    wide, narrow = (uniform("k", 50, 40, t, torch.device("cpu")) for t in (torch.float64, torch.float32))
    assert (narrow.double() <= wide).all()
    assert (wide - narrow.double() < 2.0**-24).all()
