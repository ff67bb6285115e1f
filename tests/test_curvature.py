"""The largest eigenvalue of a loss's Hessian, against matrices whose eigenvalues are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfteach.objective.curvature import largest_eigenvalue


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def quadratic(eigenvalues: list[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """½ wᵀAw of an A with these eigenvalues, w in two pieces."""
    n = len(eigenvalues)
    turned = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator())).Q
    a = turned @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ turned.T
    one = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    two = torch.ones(n - 2, dtype=torch.float64, requires_grad=True)
    w = torch.cat([one.flatten(), two])
    return w @ a @ w / 2, [one, two]


@pytest.mark.parametrize(
    ("eigenvalues", "largest"),
    [
        ([5.0, 2.0, 0.5, -1.0], 5.0),
        ([-7.0, 2.0, 0.5, -1.0], 2.0),
        ([-7.0, -3.0, -4.0, -2.5], -2.5),
        ([3.0, 3.0, 3.0, 3.0], 3.0),
    ],
)
def test_it_is_the_largest_not_the_largest_in_size(eigenvalues: list[float], largest: float) -> None:
    loss, parameters = quadratic(eigenvalues)
    assert largest_eigenvalue(loss, parameters, 200, generator()) == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 3, 10])
def test_what_is_returned_is_never_above_it_and_scales_with_the_loss(steps: int) -> None:
    loss, parameters = quadratic([5.0, 2.0, 0.5, -1.0])
    found = largest_eigenvalue(loss, parameters, steps, generator())
    assert found <= 5 + 1e-12
    assert largest_eigenvalue(3 * loss, parameters, steps, generator()) == pytest.approx(3 * found)


def test_of_a_network_it_is_that_of_the_whole_hessian() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randint(2, (7,))
    names, parts = zip(*net.named_parameters(), strict=True)

    def loss_at(flat: torch.Tensor) -> torch.Tensor:
        sizes = [one.numel() for one in parts]
        given = {n: v.view_as(p) for n, v, p in zip(names, flat.split(sizes), parts, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(net, given, (x,)), y)

    whole = torch.cat([one.detach().flatten() for one in parts])
    hessian = torch.autograd.functional.hessian(loss_at, whole)
    found = largest_eigenvalue(nn.functional.cross_entropy(net(x), y), parts, 300, generator())
    assert found == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-6)


def test_a_loss_without_curvature_has_none_and_unused_weights_do_not_matter() -> None:
    w = torch.ones(3, requires_grad=True)
    assert largest_eigenvalue(w.sum(), [w], 5, generator()) == 0
    unused = torch.ones(2, requires_grad=True)
    assert largest_eigenvalue((w**2).sum(), [w, unused], 30, generator()) == pytest.approx(2, rel=1e-5)
    assert w.grad is None
