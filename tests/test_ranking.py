"""The likelihood of a ranking, against hand-made sums, enumeration and autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from selfteach.objective.ranking import PlackettLuce
from selfteach.objective.support import TopK


def log_probs(*logits: float) -> torch.Tensor:
    return torch.tensor(logits, dtype=torch.float64).log_softmax(-1)


AGREES = log_probs(3.0, 2.0, 1.0)


def test_the_cards_numbers() -> None:
    """Card 61 (d): logits (3, 2, 1), a teacher that agrees, and one that sees it the other way round."""
    assert float(PlackettLuce()(AGREES, log_probs(9.0, 5.0, 0.0))) == pytest.approx(0.72087, abs=1e-5)
    assert float(PlackettLuce()(AGREES, log_probs(0.0, 5.0, 9.0))) == pytest.approx(3.72087, abs=1e-5)


def test_the_released_form_is_the_likelihood_of_the_reversed_ranking() -> None:
    teacher = log_probs(9.0, 5.0, 0.0)
    assert float(PlackettLuce("reversed")(AGREES, teacher)) == pytest.approx(3.72087, abs=1e-5)
    torch.testing.assert_close(PlackettLuce("reversed")(AGREES, teacher), PlackettLuce()(AGREES, -teacher))


def test_the_likelihoods_of_all_rankings_sum_to_one() -> None:
    student = log_probs(0.3, -1.2, 0.8, 2.0)
    total = 0.0
    for order in itertools.permutations(range(4)):
        teacher = torch.empty(4, dtype=torch.float64)
        teacher[list(order)] = -torch.arange(4, dtype=torch.float64)
        total += math.exp(-float(PlackettLuce()(student, teacher)))
    assert total == pytest.approx(1.0)


def test_one_entry_is_ranked_for_certain() -> None:
    assert float(PlackettLuce()(log_probs(2.0), log_probs(1.0))) == 0


@pytest.mark.parametrize("order", ["teacher", "reversed"])
def test_a_constant_and_the_teachers_distances_change_nothing(order: str) -> None:
    loss = PlackettLuce(order)  # type: ignore[arg-type]
    student, teacher = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(loss(student + 3.0, teacher), loss(student, teacher))
    torch.testing.assert_close(loss(student, 5 * teacher - 2), loss(student, teacher))


@pytest.mark.parametrize("order", ["teacher", "reversed"])
def test_the_slope_is_autograds(order: str) -> None:
    loss = PlackettLuce(order)  # type: ignore[arg-type]
    student, teacher = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    student = student.log_softmax(-1).requires_grad_()
    (expected,) = torch.autograd.grad(loss(student, teacher).sum(), student)
    value, slope = loss.value_and_slope(student.detach(), teacher)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(value, loss(student, teacher).detach())


@pytest.mark.parametrize("tail", ["drop", "renormalize"])
def test_on_the_students_likeliest_the_logit_gradient_is_autograds(tail: str) -> None:
    support = TopK(4, "student", tail)  # type: ignore[arg-type]
    logits, teacher = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits, teacher = logits.requires_grad_(), teacher.log_softmax(-1)
    loss = PlackettLuce()(*support.restrict(logits.log_softmax(-1), teacher))
    (expected,) = torch.autograd.grad(loss.sum(), logits)
    value, gradient = support.value_and_logit_gradient(
        PlackettLuce(), logits.detach().log_softmax(-1), teacher
    )
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, expected)
    assert gradient.sum(-1).abs().max() < 1e-12  # a constant in all logits changes nothing


@pytest.mark.parametrize("order", ["teacher", "reversed"])
def test_entries_outside_the_set_are_not_ranked(order: str) -> None:
    """As an intersection of two sets leaves them: −inf on both sides, anywhere."""
    loss = PlackettLuce(order)  # type: ignore[arg-type]
    outside = torch.tensor([-torch.inf], dtype=torch.float64)
    student, teacher = log_probs(3.0, 2.0, 1.0), log_probs(0.0, 2.0, 1.0)
    for at in range(4):
        own, other = (torch.cat([x[:at], outside, x[at:]]) for x in (student, teacher))
        value, slope = loss.value_and_slope(own, other)
        torch.testing.assert_close(value, loss(student, teacher))
        assert slope[at] == 0
        kept = torch.arange(4) != at
        torch.testing.assert_close(slope[kept], loss.value_and_slope(student, teacher)[1])


def test_a_clip_of_entries_is_refused() -> None:
    with pytest.raises(ValueError, match="clip_entry"):
        PlackettLuce(clip_entry=1.0)
