"""Losses of pairs and of single answers: closed forms in numpy, slopes, limits, and pairs as a batch has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import selfteach.objective as obj
from selfteach.objective.preference import SMOOTHED, DPOLoss, Pairs, bco, dpo, kto, mismatched_kl

BETA, SMOOTHING = 0.3, 0.1
DRAW = torch.Generator().manual_seed(0)
SUMS, REFERENCE = 3 * torch.randn(2, 7, generator=DRAW, dtype=torch.float64)
LENGTH = torch.tensor([5, 2, 4, 1, 3, 5, 2])
PAIRS = Pairs(
    torch.arange(7), torch.tensor([0, 2, 4]), torch.tensor([1, 3, 1])
)  # 1 loses twice, 5 and 6 do not play
GOOD = torch.tensor([True, False, True, False, True, True, False])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(loss: str, w: np.ndarray, lo: np.ndarray, b: float, e: float) -> np.ndarray:
    """The papers' formulas, written another way."""
    log, m = np.log, b * (w - lo)
    q = sigmoid(m)
    return {
        "sigmoid": lambda: (1 - e) * log(1 + np.exp(-m)) + e * log(1 + np.exp(m)),
        "sigmoid_norm": lambda: log(1 + np.exp(-m)),
        "hinge": lambda: np.maximum(0, 1 - m),
        "ipo": lambda: (w - lo - 0.5 / b) ** 2,
        "robust": lambda: ((1 - e) * -log(q) - e * -log(1 - q)) / (1 - 2 * e),
        "exo_pair": lambda: q * log(q / (1 - e)) + (1 - q) * log((1 - q) / e),
        "nca_pair": lambda: -log(sigmoid(b * w)) - log(sigmoid(-b * w)) / 2 - log(sigmoid(-b * lo)) / 2,
        "bco_pair": lambda: -log(sigmoid(b * w)) - log(sigmoid(-b * lo)),
        "sppo_hard": lambda: (w - 1 / (2 * b)) ** 2 + (lo + 1 / (2 * b)) ** 2,
        "apo_zero": lambda: 1 - sigmoid(b * w) + sigmoid(b * lo),
        "apo_down": lambda: sigmoid(b * w) + 1 - sigmoid(m),
    }[loss]()


def smoothing_of(loss: str) -> float:
    return SMOOTHING if loss in SMOOTHED else 0.0


@pytest.mark.parametrize("loss", get_args(DPOLoss))
def test_each_loss_of_pairs_is_its_formula(loss: Any) -> None:
    smoothing = smoothing_of(loss)
    ratio = (SUMS - REFERENCE).numpy()
    if loss in ("ipo", "sigmoid_norm"):
        ratio = ratio / LENGTH.numpy()
    expected = by_hand(loss, ratio[[0, 2, 4]], ratio[[1, 3, 1]], BETA, smoothing).mean()
    found = dpo(PAIRS, REFERENCE, beta=BETA, loss=loss, label_smoothing=smoothing, length=LENGTH)(SUMS)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_dpo_is_beta_sigma_of_minus_the_margin() -> None:
    sums = SUMS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(dpo(PAIRS, REFERENCE, beta=BETA)(sums), sums)
    ratio = SUMS - REFERENCE
    weight = BETA * torch.sigmoid(-BETA * (ratio[[0, 2, 4]] - ratio[[1, 3, 1]])) / 3
    expected = torch.zeros(7, dtype=torch.float64)
    expected.index_add_(0, torch.tensor([0, 2, 4]), -weight).index_add_(0, torch.tensor([1, 3, 1]), weight)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        ("sigmoid", np.log(2)),
        ("hinge", 1.0),
        ("ipo", 0.25 / BETA**2),
        ("nca_pair", 2 * np.log(2)),
        ("apo_zero", 1.0),
    ],
)
def test_at_the_reference_a_loss_is_a_constant(loss: Any, value: float) -> None:
    assert float(dpo(PAIRS, SUMS, beta=BETA, loss=loss, length=LENGTH)(SUMS)) == pytest.approx(
        value, rel=1e-12
    )


def test_smoothing_is_as_if_so_many_labels_were_turned_around() -> None:
    turned = Pairs(PAIRS.unit, PAIRS.rejected, PAIRS.chosen)
    right, wrong = (dpo(one, REFERENCE, beta=BETA)(SUMS) for one in (PAIRS, turned))
    smooth = dpo(PAIRS, REFERENCE, beta=BETA, label_smoothing=SMOOTHING)(SUMS)
    torch.testing.assert_close(smooth, (1 - SMOOTHING) * right + SMOOTHING * wrong)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"loss": "sigmod"}, "sigmoid, sigmoid_norm"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "hinge.*label_smoothing"),
        ({"loss": "robust", "label_smoothing": 0.5}, r"\[0, 0.5\)"),
        ({"loss": "exo_pair"}, "exo_pair.*above 0"),
        ({"loss": "ipo"}, "ipo.*length"),
    ],
)
def test_what_a_loss_of_pairs_cannot_have_is_refused(words: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dpo(PAIRS, REFERENCE, **words)


def test_kto_is_its_formula_and_its_baseline_a_constant() -> None:
    z = 0.7
    ratio = (SUMS - REFERENCE).numpy()
    good = GOOD.numpy()
    expected = np.where(
        good, 1.3 * (1 - sigmoid(BETA * (ratio - z))), 0.6 * (1 - sigmoid(BETA * (z - ratio)))
    )
    words = {"beta": BETA, "desirable_weight": 1.3, "undesirable_weight": 0.6}
    sums = SUMS.clone().requires_grad_()
    found = kto(GOOD, REFERENCE, baseline=z, **words)(sums)
    assert float(found.detach()) == pytest.approx(expected.mean(), rel=1e-12)
    (slope,) = torch.autograd.grad(found, sums)
    assert (slope[GOOD] < 0).all()
    assert (slope[~GOOD] > 0).all()


def test_bco_is_its_formula_and_does_not_see_what_is_added_to_all_rewards() -> None:
    reward = BETA * (SUMS - REFERENCE)
    delta = (reward[GOOD].mean() + reward[~GOOD].mean()) / 2
    r, d, good = reward.numpy(), float(delta), GOOD.numpy()
    expected = -np.log(sigmoid(r - d))[good].mean() - np.log(sigmoid(d - r))[~good].mean()
    assert float(bco(GOOD, REFERENCE, beta=BETA)(SUMS)) == pytest.approx(expected, rel=1e-12)
    assert float(bco(GOOD, REFERENCE, beta=BETA)(SUMS + 5)) == pytest.approx(expected, rel=1e-12)
    assert float(bco(GOOD, SUMS, beta=BETA)(SUMS)) == pytest.approx(2 * np.log(2), rel=1e-12)
    sums = SUMS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bco(GOOD, REFERENCE, beta=BETA)(sums), sums)
    part = np.where(good, -BETA * sigmoid(d - r) / good.sum(), BETA * sigmoid(r - d) / (~good).sum())
    np.testing.assert_allclose(slope.numpy(), part, rtol=1e-12)


def test_bco_of_one_kind_alone_has_that_kinds_loss() -> None:
    only = torch.ones_like(GOOD)
    reward = BETA * (SUMS - REFERENCE)
    expected = -torch.nn.functional.logsigmoid(reward - reward.mean()).mean()
    torch.testing.assert_close(bco(only, REFERENCE, beta=BETA)(SUMS), expected)


# --- in a batch -------------------------------------------------------------------------------------------------


def batch(**columns: Any) -> tuple[obj.Columns, Tensor, Tensor]:
    mask = torch.arange(4) < torch.tensor([[4], [2], [3], [1], [2], [4]])
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, (6, 4), generator=draw)
    own, other = torch.randn(2, 6, 4, 5, generator=draw, dtype=torch.float64)
    return obj.Columns(ids, mask, precision=torch.float64, **columns), own, other


def statistics(
    columns: obj.Columns, own: Tensor, other: Tensor, rows: Tensor | None = None
) -> obj.Statistics:
    roles = {"student": obj.Scored(own), "reference": obj.Scored(other)}
    return obj.Statistics.of(obj.ScoredBatch.padded(columns, roles), rows=rows)


def listed(pairs: Pairs) -> list[tuple[int, int]]:
    """(row, row) of each pair."""
    row = {int(unit): i for i, unit in enumerate(pairs.unit) if unit >= 0}
    return [(row[int(w)], row[int(lo)]) for w, lo in zip(pairs.chosen, pairs.rejected, strict=True)]


def test_given_pairs_are_those_whose_rows_are_both_there() -> None:
    columns, own, other = batch(pair=torch.tensor([1, -1, 1, -1, 5, -1]))
    stats = statistics(columns, own, other)
    assert listed(Pairs.given(stats)) == [(0, 1), (2, 1), (4, 5)]
    assert Pairs.given(stats).unit.tolist() == [0, 1, 2, -1, 3, 4]
    assert listed(Pairs.given(stats, torch.tensor([True, False, True, True, True, True]))) == [(4, 5)]
    part = statistics(columns, own, other, torch.tensor([True, True, True, True, False, False]))
    assert listed(Pairs.given(part)) == [(0, 1), (2, 1)]


def test_pairs_of_groups_are_the_kth_right_and_the_kth_wrong() -> None:
    columns, own, other = batch(
        group=torch.tensor([7, 7, 7, 2, 2, 2]), reward=torch.tensor([0.0, 1, 1, 0, 0, 0])
    )
    stats = statistics(columns, own, other)
    assert listed(Pairs.of_groups(stats)) == [(1, 0)]
    assert listed(Pairs.of_groups(stats, torch.tensor([False] + [True] * 5))) == []


@pytest.mark.parametrize("make", [Pairs.given, Pairs.of_groups])
def test_a_batch_without_rows_has_no_pairs(make: Callable[..., Pairs]) -> None:
    none, whole = torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, 5, dtype=torch.float64)
    columns = obj.Columns(
        torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4, dtype=torch.bool), pair=none, group=none,
        reward=torch.zeros(0),
    )  # fmt: skip
    assert listed(make(statistics(columns, whole, whole))) == []


def test_the_mismatched_kl_is_a_mean_that_is_never_negative() -> None:
    columns, own, other = batch()
    rows = torch.tensor([False, True, False, True, False, True])
    gained = (own.log_softmax(-1) - other.log_softmax(-1)).gather(-1, columns.ids[..., None]).squeeze(-1)
    mean = float(torch.where(columns.mask, gained, 0.0).sum(1)[rows].mean())
    there, back = statistics(columns, own, other), statistics(columns, other, own)
    assert float(mismatched_kl(there, rows, "reference")) == pytest.approx(max(0.0, mean), rel=1e-12)
    assert float(mismatched_kl(back, rows, "reference")) == pytest.approx(max(0.0, -mean), rel=1e-12)
    assert mean != 0
    assert mismatched_kl(there, torch.zeros_like(rows), "reference") == 0


@pytest.mark.parametrize("kind", ["dpo", "kto", "bco"])
def test_in_a_sequence_term_value_and_gradient_are_autograds(kind: str) -> None:
    columns, own, other = batch(pair=torch.tensor([1, -1, 1, -1, 5, -1]))
    logits = own.clone().requires_grad_()
    stats = statistics(columns, logits, other)
    pairs = Pairs.given(stats)
    good = torch.tensor([True, False, True, True, False])
    reference = stats.unit_sum(pairs.unit, "reference")
    function = {
        "dpo": lambda: dpo(pairs, reference, beta=BETA),
        "kto": lambda: kto(good, reference, beta=BETA, baseline=0.2),
        "bco": lambda: bco(good, reference, beta=BETA),
    }[kind]()
    term = obj.SequenceTerm(name="f", unit=pairs.unit, sums=stats.unit_sum(pairs.unit), function=function)
    scored = obj.ScoredBatch.padded(columns, {"student": obj.Scored(logits)})
    ours = obj.evaluate_terms(scored, obj.plan([term], columns)).loss
    taken = logits.log_softmax(-1).gather(-1, columns.ids[..., None]).squeeze(-1)
    sums = torch.where(columns.mask, taken, 0.0).sum(1)[[0, 1, 2, 4, 5]]
    theirs = function(sums)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)))
