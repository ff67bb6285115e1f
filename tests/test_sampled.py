"""Sampled-token estimators: their mean over all tokens against the exact value and gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.sampled import (
    clipped_surrogate,
    control_variate,
    distillation_advantage,
    importance_ratio,
    k1,
    k2,
    k3,
    policy_gradient,
)
from selfteach.objective.support import TopK


def log_probs(*shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


STUDENT, TEACHER, BEHAVIOR = (log_probs(5, 7, seed=seed) for seed in (1, 2, 3))
REVERSE, FORWARD = ReverseKL().logit_gradient(STUDENT, TEACHER), ForwardKL().logit_gradient(STUDENT, TEACHER)
Estimator = Callable[[Tensor, Tensor], Tensor]


def on_policy(student: Tensor, teacher: Tensor) -> Tensor:
    return policy_gradient(student, distillation_advantage(student, teacher))


def with_baseline(student: Tensor, teacher: Tensor) -> Tensor:
    baseline = control_variate(student, teacher).unsqueeze(-1)
    return policy_gradient(student, distillation_advantage(student, teacher) + baseline)


def with_top_2_baseline(student: Tensor, teacher: Tensor) -> Tensor:
    baseline = control_variate(student, teacher, TopK(2, "student", "renormalize")).unsqueeze(-1)
    return policy_gradient(student, distillation_advantage(student, teacher) + baseline)


def with_any_constant(student: Tensor, teacher: Tensor) -> Tensor:
    return policy_gradient(student, distillation_advantage(student, teacher) + 3.7)


def off_policy(student: Tensor, teacher: Tensor) -> Tensor:
    return importance_ratio(student, BEHAVIOR) * on_policy(student, teacher)


def surrogate(student: Tensor, teacher: Tensor) -> Tensor:
    return clipped_surrogate(student, student.detach(), distillation_advantage(student, teacher))


def mean(
    estimator: Estimator, sampler: Tensor = STUDENT, logits: Tensor = STUDENT, teacher: Tensor = TEACHER
) -> Tensor:
    """[P, V] log-probs → [P] E_{y ~ sampler} estimator(y), every token taken in turn instead of drawn."""
    return (sampler.exp() * estimator(logits.log_softmax(-1), teacher)).sum(-1)


def mean_gradient(estimator: Estimator, sampler: Tensor = STUDENT, teacher: Tensor = TEACHER) -> Tensor:
    logits = STUDENT.detach().requires_grad_()
    return torch.autograd.grad(mean(estimator, sampler, logits, teacher).sum(), logits)[0]


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [k1, k3])
def test_value_is_unbiased(estimator: Estimator) -> None:
    torch.testing.assert_close(mean(estimator), ReverseKL()(STUDENT, TEACHER))


def test_k2_value_is_biased() -> None:
    assert ((mean(k2) / ReverseKL()(STUDENT, TEACHER)) - 1).abs().min() > 0.01


@pytest.mark.parametrize("estimator", [k2, k3])
def test_k2_and_k3_are_never_negative_and_k1_is(estimator: Estimator) -> None:
    assert (estimator(STUDENT, TEACHER) >= 0).all()
    assert (k1(STUDENT, TEACHER) < 0).any()


def test_k2_and_k3_approach_k1s_mean_as_the_two_come_close() -> None:
    near = (STUDENT + 1e-3 * TEACHER).log_softmax(-1)
    exact = ReverseKL()(STUDENT, near)
    for estimator in (k2, k3):
        torch.testing.assert_close(mean(estimator, teacher=near), exact, rtol=5e-3, atol=0)


# ---- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "sampler", "exact"),
    [
        (k1, STUDENT, torch.zeros_like(REVERSE)),
        (k2, STUDENT, REVERSE),
        (k3, STUDENT, FORWARD),
        (on_policy, STUDENT, REVERSE),
        (with_baseline, STUDENT, REVERSE),
        (with_top_2_baseline, STUDENT, REVERSE),
        (with_any_constant, STUDENT, REVERSE),
        (surrogate, STUDENT, REVERSE),
        (off_policy, BEHAVIOR, REVERSE),
    ],
    ids=[
        "k1 is nothing",
        "k2",
        "k3 is forward KL",
        "policy gradient",
        "+ baseline",
        "+ top-2 baseline",
        "+ constant",
        "PPO at ratio 1",
        "off-policy",
    ],
)
def test_mean_gradient_over_all_tokens_is_exact(estimator: Estimator, sampler: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(mean_gradient(estimator, sampler), exact, rtol=1e-10, atol=1e-14)


def test_k3_as_a_loss_is_not_the_reverse_kl() -> None:
    assert (mean_gradient(k3) - REVERSE).abs().max() > 0.05


@pytest.mark.parametrize(
    ("estimator", "sees"),
    [(k1, False), (k2, True), (k3, True), (on_policy, True), (with_baseline, True), (surrogate, True)],
)
def test_perturbing_the_teacher_changes_the_gradient_of_all_but_k1(estimator: Estimator, sees: bool) -> None:
    nudged = (TEACHER + torch.eye(5, 7, dtype=torch.float64)).log_softmax(-1)
    change = mean_gradient(estimator) - mean_gradient(estimator, teacher=nudged)
    assert (change.abs().max() > 1e-3) == sees


@pytest.mark.parametrize("estimator", [k2, k3, on_policy, with_baseline, surrogate])
def test_gradient_vanishes_token_by_token_when_student_equals_teacher(estimator: Estimator) -> None:
    student = STUDENT.clone().requires_grad_()
    estimator(student, STUDENT).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-14


@pytest.mark.parametrize("estimator", [k1, k2, k3, on_policy, surrogate])
def test_teacher_never_receives_a_gradient(estimator: Estimator) -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    estimator(student, teacher).sum().backward()
    assert teacher.grad is None


def test_only_the_students_log_prob_receives_a_gradient() -> None:
    student, behavior, advantage = (x.clone().requires_grad_() for x in (STUDENT, BEHAVIOR, TEACHER))
    assert not distillation_advantage(student, behavior).requires_grad
    for loss in (policy_gradient(student, advantage), clipped_surrogate(student, behavior, advantage)):
        loss.sum().backward()
    assert student.grad is not None
    assert behavior.grad is None
    assert advantage.grad is None


@pytest.mark.parametrize("estimator", [k2, on_policy, with_baseline])
def test_monte_carlo_mean_agrees_with_the_exact_gradient(estimator: Estimator) -> None:
    draws = 40_000
    student, teacher = STUDENT[:1].expand(draws, 7), TEACHER[:1].expand(draws, 7)
    ids = torch.multinomial(
        STUDENT[0].exp(), draws, True, generator=torch.Generator().manual_seed(0)
    ).unsqueeze(-1)
    logits = student.clone().requires_grad_()
    losses = estimator(logits.log_softmax(-1), teacher).gather(-1, ids)
    (each,) = torch.autograd.grad(losses.sum(), logits)
    error = (each.mean(0) - REVERSE[0]).abs() / (each.std(0) / math.sqrt(draws))
    assert error.max() < 4.5


# ---- control variate (card 32) ---------------------------------------------------------------------------


def test_advantage_plus_control_variate_has_mean_zero() -> None:
    centered = distillation_advantage(STUDENT, TEACHER) + control_variate(STUDENT, TEACHER).unsqueeze(-1)
    assert (STUDENT.exp() * centered).sum(-1).abs().max() < 1e-14


def test_control_variate_is_the_reverse_kl_without_gradient() -> None:
    baseline = control_variate(STUDENT.clone().requires_grad_(), TEACHER)
    assert not baseline.requires_grad
    torch.testing.assert_close(baseline, ReverseKL()(STUDENT, TEACHER))
    torch.testing.assert_close(control_variate(STUDENT, TEACHER, TopK(7, "student", "renormalize")), baseline)


def test_top_k_control_variate_renormalizes_both_sides_on_the_students_set() -> None:
    student, teacher = torch.tensor([[[0.5, 0.3, 0.2]], [[0.1, 0.3, 0.6]]], dtype=torch.float64).log()
    expected = 0.625 * math.log(0.625 / 0.25) + 0.375 * math.log(0.375 / 0.75)
    assert float(control_variate(student, teacher, TopK(2, "student", "renormalize"))) == pytest.approx(
        expected, rel=1e-12
    )


def test_control_variate_lowers_the_variance_summed_over_positions() -> None:
    student, teacher = log_probs(200, 20, seed=4), log_probs(200, 20, seed=5)
    scores = torch.eye(20, dtype=torch.float64) - student.exp().unsqueeze(
        -2
    )  # [P, y, j] = ∂ log p(y) / ∂ z_j

    def total_variance(advantage: Tensor) -> Tensor:
        each = advantage.unsqueeze(-1) * scores
        chance = student.exp().unsqueeze(-1)
        return (chance * each.square()).sum() - (chance * each).sum(-2).square().sum()

    advantage = distillation_advantage(student, teacher)
    baseline = control_variate(student, teacher).unsqueeze(-1)
    assert total_variance(advantage + baseline) < 0.98 * total_variance(advantage)


def test_a_control_variate_of_more_entries_than_there_are_is_the_exact_one() -> None:
    torch.testing.assert_close(
        control_variate(STUDENT, TEACHER, TopK(8, "student", "renormalize")),
        control_variate(STUDENT, TEACHER),
    )


# ---- ratios ----------------------------------------------------------------------------------------------


def test_importance_ratio_is_a_detached_truncated_quotient() -> None:
    ratio = importance_ratio(STUDENT.clone().requires_grad_(), BEHAVIOR, truncate=1.5)
    assert not ratio.requires_grad
    torch.testing.assert_close(ratio, (STUDENT.exp() / BEHAVIOR.exp()).clamp(max=1.5))
    assert (ratio == 1.5).any()


def test_importance_ratio_has_mean_one_under_the_behavior_unless_truncated() -> None:
    weight = BEHAVIOR.exp()
    torch.testing.assert_close((weight * importance_ratio(STUDENT, BEHAVIOR)).sum(-1), torch.ones(5).double())
    assert ((weight * importance_ratio(STUDENT, BEHAVIOR, 1.5)).sum(-1) < 0.99).any()


def test_log_ratio_is_clamped_at_20_before_the_exponential() -> None:
    far = torch.tensor([0.0, -1e4])
    assert importance_ratio(far, far.flip(0)).tolist() == pytest.approx([math.exp(20), math.exp(-20)])
    assert k3(far, far.flip(0)).isfinite().all()
    student = torch.tensor([-1e4], requires_grad=True)
    clipped_surrogate(student, torch.tensor([0.0]), torch.tensor([-1.0])).sum().backward()
    assert student.grad is not None
    assert student.grad.item() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.56, 0.0),  # clipped above at 1.28
        (1.5, -2.0, 3.0, 3.0),  # the pessimistic side is never clipped
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),  # clipped below at 0.8
    ],
)
def test_clipped_surrogate_is_ppos(ratio: float, advantage: float, value: float, slope: float) -> None:
    student = torch.tensor([math.log(ratio) - 1], dtype=torch.float64, requires_grad=True)
    behavior, given = torch.tensor([-1.0]).double(), torch.tensor([advantage]).double()
    loss = clipped_surrogate(student, behavior, given, clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    assert student.grad is not None
    assert loss.item() == pytest.approx(value)
    assert student.grad.item() == pytest.approx(slope)


def test_gradients_pass_finite_differences() -> None:
    student = STUDENT.detach().clone().requires_grad_()
    for estimator in (k1, k2, k3, lambda s, t: clipped_surrogate(s, BEHAVIOR, t)):
        assert torch.autograd.gradcheck(lambda s, e=estimator: e(s, TEACHER), student)


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [k1, k2, k3, policy_gradient, distillation_advantage, importance_ratio])
def test_shapes_that_would_broadcast_are_refused(estimator: Estimator) -> None:
    with pytest.raises(ValueError, match=r"has shape \[3, 1\], student \[3\]"):
        estimator(torch.zeros(3), torch.zeros(3, 1))


def test_surrogate_names_the_argument_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match="behavior"):
        clipped_surrogate(torch.zeros(3), torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="advantage"):
        clipped_surrogate(torch.zeros(3), torch.zeros(3), torch.zeros(2))


@pytest.mark.parametrize(("clip", "bad"), [("clip_low", -0.1), ("clip_low", 1.1), ("clip_high", -0.1)])
def test_clip_out_of_range_is_refused_by_name(clip: str, bad: float) -> None:
    with pytest.raises(ValueError, match=clip):
        clipped_surrogate(torch.zeros(3), torch.zeros(3), torch.zeros(3), **{clip: bad})


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_truncation_that_is_not_positive_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="truncate"):
        importance_ratio(torch.zeros(3), torch.zeros(3), bad)
