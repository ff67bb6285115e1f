"""A match on the teachers' likeliest tokens and the sampled one."""

from __future__ import annotations

import pytest
import torch

from selfteach.objective.batch import STUDENT
from selfteach.objective.candidates import CandidateMatch
from selfteach.objective.divergence import NEVER, ForwardKL, gkd_jsd
from selfteach.objective.engine import by_autograd
from selfteach.objective.positions import Positions
from selfteach.objective.target import FromRole, GeometricMean
from selfteach.objective.terms import Match

WIDTH = 11


def positions() -> Positions:
    source = torch.Generator().manual_seed(0)
    logits = {
        role: torch.randn(5, WIDTH, dtype=torch.float64, generator=source) for role in (STUDENT, "a", "b")
    }
    numbers = torch.arange(5)
    return Positions(numbers, numbers, numbers, logits)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_its_closed_form_gradient_is_the_one_of_autograd(beta: float) -> None:
    term = CandidateMatch(
        name="distill", k=3, target=FromRole("a"), divergence=gkd_jsd(beta), temperature=0.7
    )
    found = term.logit_gradient(positions())
    assert found is not None
    losses, gradient = by_autograd(term, positions())
    torch.testing.assert_close(found[0], losses, rtol=0, atol=1e-14)
    torch.testing.assert_close(found[1], gradient, rtol=0, atol=1e-14)


def test_with_every_token_a_candidate_it_is_a_match() -> None:
    target = GeometricMean({"a": 0.5, "b": 0.5})
    every = CandidateMatch(name="distill", k=WIDTH, target=target, divergence=ForwardKL())
    plain = Match(name="distill", target=target, divergence=ForwardKL())
    torch.testing.assert_close(every.token_loss(positions()), plain.token_loss(positions()))


def test_the_candidates_are_the_union_of_the_teachers_likeliest_and_the_sampled_token() -> None:
    at, target = positions(), GeometricMean({"a": 0.5, "b": 0.5})
    term = CandidateMatch(name="distill", k=2, target=target, divergence=ForwardKL())
    cut = term.candidates_of(at)
    for i in range(5):
        chosen = {int(at.ids[i])} | {int(t) for one in "ab" for t in at.logits[one][i].topk(2).indices}
        for logits in cut.logits.values():
            assert {int(t) for t in (logits[i] != NEVER).nonzero()} == chosen


def test_no_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be"):
        CandidateMatch(name="distill", k=0, target=FromRole("a"), divergence=ForwardKL())
