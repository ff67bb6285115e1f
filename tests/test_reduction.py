"""What a term's sum is divided by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from selfteach.objective.columns import Columns
from selfteach.objective.divisor import Divisor, Per, What
from selfteach.objective.plan import plan
from selfteach.objective.terms import NegativeLogLikelihood, Term

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
TURN = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0], [2, 2, 2, 0]])
COLUMNS = Columns(torch.zeros(3, 4, dtype=torch.long), MASK, turn=TURN, trajectory=torch.tensor([5, 9, 5]))


def coefficients(term: Term, columns: Columns = COLUMNS, rows: Tensor | None = None) -> Tensor:
    return plan([term], columns, rows)[0].coefficients


def test_rollouts_sums_over_a_rollouts_tokens_and_means_over_the_rollouts() -> None:
    term = NegativeLogLikelihood(name="nll", mean_over="rollouts")
    torch.testing.assert_close(coefficients(term), MASK.double() / 3)


def test_rollouts_counts_those_with_a_selected_token_only() -> None:
    where = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    term = NegativeLogLikelihood(name="nll", where=where, mean_over="rollouts")
    expected = (where & MASK).double() / 2
    torch.testing.assert_close(coefficients(term), expected)
    blind = replace(COLUMNS, available={"teacher": torch.tensor([True, True, False])})
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[0, 1] = 1.0
    torch.testing.assert_close(coefficients(replace(term, informed_by={"teacher": "full"}), blind), expected)


@pytest.mark.parametrize("what", ["written", "selected", "one"])
@pytest.mark.parametrize("per", ["batch", "row", "turn", "trajectory"])
def test_a_divisor_is_the_mean_over_units_of_what_each_holds(what: What, per: Per) -> None:
    """Against plain loops over units."""
    where = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]]).bool()
    chosen = where & MASK
    units: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for row, step in MASK.nonzero().tolist():
        key = {
            "batch": (0,), "row": (row,), "turn": (row, int(TURN[row, step])), "trajectory": ([5, 9, 5][row],),
        }[per]  # fmt: skip
        units.setdefault(key, []).append((row, step))
    counted = [unit for unit in units.values() if any(chosen[place] for place in unit)]
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for unit in counted:
        inside = [place for place in unit if chosen[place]]
        size = {"written": len(unit), "selected": len(inside), "one": 1}[what]
        for place in inside:
            expected[place] = 1 / (size * len(counted))
    found = coefficients(NegativeLogLikelihood(name="nll", where=where, mean_over=Divisor(what, per)))
    torch.testing.assert_close(found, expected)


def test_a_number_divides_by_itself_and_a_mask_by_its_count() -> None:
    ones = MASK.double()
    torch.testing.assert_close(coefficients(NegativeLogLikelihood(name="nll", mean_over=2.5)), ones / 2.5)
    shared = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(coefficients(NegativeLogLikelihood(name="nll", mean_over=shared)), ones / 12)


def test_tokens_that_a_role_did_not_see_count_nowhere_unless_the_divisor_is_given() -> None:
    blind = replace(COLUMNS, available={"teacher": torch.tensor([True, True, False])})
    term = NegativeLogLikelihood(name="nll", informed_by={"teacher": "sampled"})
    seen = MASK & torch.tensor([[True], [True], [False]])
    torch.testing.assert_close(coefficients(term, blind), seen.double() / 6)
    torch.testing.assert_close(coefficients(replace(term, mean_over=MASK), blind), seen.double() / 9)
    by_token = replace(COLUMNS, available={"teacher": TURN == 0})
    torch.testing.assert_close(coefficients(term, by_token), (MASK & (TURN == 0)).double() / 3)


def test_rows_outside_the_update_are_neither_selected_nor_counted() -> None:
    rows = torch.tensor([True, False, True])
    found = coefficients(NegativeLogLikelihood(name="nll"), rows=rows)
    torch.testing.assert_close(found, (MASK & rows.unsqueeze(1)).double() / 7)


def test_a_weight_that_is_nan_where_it_is_read_is_refused_by_the_terms_name() -> None:
    weight = torch.tensor([1.0, torch.nan, 1.0])
    kept = NegativeLogLikelihood(name="nll", weight=weight, where=torch.tensor([True, False, True]))
    assert coefficients(kept).isfinite().all()
    with pytest.raises(ValueError, match="term 'nll': weight is nan at row 1, position 0"):
        coefficients(replace(kept, where=None))


@pytest.mark.parametrize(
    ("mean_over", "said"),
    [("token", "mean_over must be one of"), (0, "above 0"), (Divisor("one", "turn"), "turn")],
)
def test_an_impossible_divisor_is_refused(mean_over: object, said: str) -> None:
    bare = Columns(COLUMNS.ids, MASK)
    with pytest.raises(ValueError, match=said):
        coefficients(NegativeLogLikelihood(name="nll", mean_over=mean_over), bare)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [("tokens", "batch"), ("written", "group")])
def test_a_divisor_of_unknown_words_is_refused(words: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        Divisor(*words)  # type: ignore[arg-type]
