"""Three identities of the importance-weighted k3, by listing a small vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selfteach.recipes.importance_k3 import importance_k3

V = 7


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of policy, teacher and sampler at one position, float64."""
    generator = torch.Generator().manual_seed(seed)
    policy, teacher, sampler = torch.randn(3, V, generator=generator, dtype=torch.float64)
    return policy.requires_grad_(), teacher.log_softmax(-1), sampler.log_softmax(-1)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at, retain_graph=True)[0]


@pytest.mark.parametrize("seed", range(3))
def test_its_mean_is_the_reverse_kl_in_value_and_gradient(seed: int) -> None:
    """(a)"""
    logits, q, mu = drawn(seed)
    log_p = logits.log_softmax(-1)
    mean = (mu.exp() * importance_k3(log_p, mu, q)).sum()
    kl = (log_p.exp() * (log_p - q)).sum()
    torch.testing.assert_close(mean, kl, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient(mean, logits), gradient(kl, logits), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_without_the_ratio_its_gradient_is_the_forward_kls(seed: int) -> None:
    """(b): samples of the present policy, ρ = 1 held constant."""
    logits, q, _ = drawn(seed)
    log_p = logits.log_softmax(-1)
    gap = log_p - q
    naive = (log_p.exp().detach() * ((-gap).exp() - 1 + gap)).sum()
    forward = (q.exp() * (q - log_p)).sum()
    reverse = (log_p.exp() * gap).sum()
    found = gradient(naive, logits)
    torch.testing.assert_close(found, gradient(forward, logits), rtol=1e-10, atol=1e-13)
    assert (found - gradient(reverse, logits)).abs().max() > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_of_one_sample_its_gradient_is_ratio_times_gap(seed: int) -> None:
    """(c): for every ratio it is k1's policy gradient with the present gap as advantage."""
    logits, q, mu = drawn(seed)
    for v in range(V):
        log_p = logits.log_softmax(-1)[v]
        found = gradient(importance_k3(log_p, mu[v], q[v]), logits)
        log_p = logits.log_softmax(-1)[v]
        scale = ((log_p - mu[v]).exp() * (log_p - q[v])).detach()
        torch.testing.assert_close(found, scale * gradient(log_p, logits), rtol=1e-10, atol=1e-13)


def test_a_capped_ratio_has_no_gradient_of_its_own() -> None:
    log_p = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    mu, q = torch.tensor(-3.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
    capped = importance_k3(log_p, mu, q, cap=2.0)
    k3 = torch.exp(torch.tensor(-0.5, dtype=torch.float64)) - 1 + 0.5
    torch.testing.assert_close(capped.detach(), 2 * k3)
    torch.testing.assert_close(
        gradient(capped, log_p), 2 * (1 - torch.exp(torch.tensor(-0.5, dtype=torch.float64)))
    )
    below = gradient(importance_k3(log_p, log_p.detach(), q, cap=2.0), log_p)
    torch.testing.assert_close(below, torch.tensor(0.5, dtype=torch.float64))
    bound = importance_k3(log_p, log_p.detach(), q - 100, bound=10.0)
    torch.testing.assert_close(bound.item(), torch.exp(torch.tensor(-10.0)).item() + 9)


def test_it_is_nothing_where_both_agree() -> None:
    log_p = torch.linspace(-5, 0, 9, dtype=torch.float64).requires_grad_()
    value = importance_k3(log_p, log_p.detach() - 1, log_p.detach())
    assert (value == 0).all()
    assert (gradient(value.sum(), log_p) == 0).all()


@pytest.mark.parametrize("gap", [-90.0, -12.0, 12.0, 90.0])
def test_beyond_the_bound_nothing_is_pushed(gap: float) -> None:
    """Not even by the ratio, which would push away what the teacher likes best."""
    log_p = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss = importance_k3(log_p, log_p.detach(), log_p.detach() - gap, cap=2.0, bound=10.0).sum()
    loss.backward()
    assert log_p.grad is not None
    assert float(log_p.grad) == 0.0
