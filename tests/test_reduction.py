"""What a term's sum is divided by."""

from __future__ import annotations

import torch

from selfteach.objective.terms import NegativeLogLikelihood, token_coefficients

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
EVERYBODY = torch.ones(3, dtype=torch.bool)


def test_rollouts_sums_over_a_rollouts_tokens_and_means_over_the_rollouts() -> None:
    term = NegativeLogLikelihood(name="nll", mean_over="rollouts")
    torch.testing.assert_close(token_coefficients(term, MASK, EVERYBODY), MASK.double() / 3)


def test_rollouts_counts_those_with_a_selected_token_only() -> None:
    where = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    term = NegativeLogLikelihood(name="nll", where=where, mean_over="rollouts")
    expected = (where & MASK).double() / 2
    torch.testing.assert_close(token_coefficients(term, MASK, EVERYBODY), expected)
    unseen = torch.tensor([True, True, False])
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[0, 1] = 1.0
    torch.testing.assert_close(token_coefficients(term, MASK, unseen), expected)
