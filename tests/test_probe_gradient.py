"""Card 16 in numbers: the ideal gradient and the losses' gradients against autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selfteach.objective.divergence import ReverseKL
from selfteach.objective.ideal import cosine, ideal_gradient, within
from selfteach.probe.nodes import LOSSES

V, C = 9, 4


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def values(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_ideal_gradient_is_that_of_the_success_probability() -> None:
    logits, success = drawn(0, 5, V).requires_grad_(), values(1, 5, V)
    (logits.softmax(-1) * success).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(ideal_gradient(logits.detach().softmax(-1), success), logits.grad)


def test_the_ideal_gradient_is_the_mean_of_reinforce_with_the_reward() -> None:
    p, success = drawn(2, V).softmax(-1), values(3, V)
    log_prob_gradients = torch.eye(V, dtype=torch.float64) - p
    torch.testing.assert_close(
        ideal_gradient(p, success), (p * success).unsqueeze(1).mul(log_prob_gradients).sum(0)
    )


def test_equal_success_everywhere_leaves_nothing_to_gain() -> None:
    p = drawn(4, 3, V).softmax(-1)
    assert ideal_gradient(p, torch.full((3, V), 0.7, dtype=torch.float64)).abs().max() < 1e-15


@pytest.mark.parametrize("loss", LOSSES)
def test_on_candidates_a_loss_has_the_gradient_of_moving_mass_among_them(loss: str) -> None:
    """Autograd through a softmax over the candidates alone, their total mass and every other token held."""
    own, theirs = drawn(5, V).log_softmax(-1), drawn(6, V).log_softmax(-1)
    mass, inner = own[:C].logsumexp(0), own[:C].clone().requires_grad_()
    moved = torch.cat([inner.log_softmax(-1) + mass, own[C:]])
    (expected,) = torch.autograd.grad(LOSSES[loss](moved, theirs), inner)
    full = LOSSES[loss].logit_gradient(own, theirs)[:C]
    torch.testing.assert_close(within(full, own[:C].softmax(-1)), expected)


def test_on_candidates_success_has_the_same_kind_of_gradient() -> None:
    own, success = drawn(7, V).log_softmax(-1), values(8, V)
    mass, inner = own[:C].logsumexp(0), own[:C].clone().requires_grad_()
    moved = torch.cat([inner.log_softmax(-1) + mass, own[C:]]).exp()
    (expected,) = torch.autograd.grad((moved * success).sum(), inner)
    torch.testing.assert_close(
        mass.exp() * ideal_gradient(own[:C].softmax(-1), success[:C]), expected.detach()
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_with_the_whole_vocabulary_as_candidates_nothing_is_cut(loss: str) -> None:
    own, theirs = drawn(9, V).log_softmax(-1), drawn(10, V).log_softmax(-1)
    full = LOSSES[loss].logit_gradient(own, theirs)
    torch.testing.assert_close(within(full, own.exp()), full)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_reverse_kl_to_a_teacher_tilted_by_success_is_perfectly_aligned(tau: float) -> None:
    own, success = drawn(11, 6, V).log_softmax(-1), values(12, 6, V)
    teacher = (own + success / tau).log_softmax(-1)
    score = cosine(-ReverseKL().logit_gradient(own, teacher), ideal_gradient(own.exp(), success))
    torch.testing.assert_close(score, torch.ones(6, dtype=torch.float64))


def test_a_teacher_tilted_against_success_is_perfectly_opposed() -> None:
    own, success = drawn(13, V).log_softmax(-1), values(14, V)
    teacher = (own - success).log_softmax(-1)
    score = cosine(-ReverseKL().logit_gradient(own, teacher), ideal_gradient(own.exp(), success))
    assert float(score) == pytest.approx(-1)


def test_a_teacher_that_is_the_student_has_no_alignment_rather_than_that_of_rounding() -> None:
    own = drawn(15, V).float().log_softmax(-1)
    pull = ReverseKL().logit_gradient(own, own.clone())
    assert cosine(pull, ideal_gradient(own.exp(), values(16, V).float())).isnan()


def test_padded_candidates_change_nothing() -> None:
    p, success, pull = drawn(17, C).softmax(-1), values(18, C), drawn(19, C)
    padding = torch.zeros(3, dtype=torch.float64)
    padded = [torch.cat([column, padding]) for column in (p, success, pull)]
    score = cosine(within(pull, p), ideal_gradient(p, success))
    torch.testing.assert_close(
        cosine(within(padded[2], padded[0]), ideal_gradient(padded[0], padded[1])), score
    )
