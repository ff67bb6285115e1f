"""Gradients of single records, clipped, summed and noised: one step of DP-SGD (card 62)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from selfteach.recipes.base import PerRecord


def private_gradient(
    losses: Iterable[Callable[[], Tensor | None]],
    parameters: Mapping[str, nn.Parameter],
    spec: PerRecord,
    generator: torch.Generator | None,
) -> list[float]:
    """Fill ``.grad`` with (Σ_i g_i min(1, C / ‖g_i‖) + N(0, σ²C²)) / B and return the norms ‖g_i‖ (nats).

    ``losses``: one function a record, whose value is differentiated alone (None: nothing to learn from it); there may be
    none at all, and then the step is pure noise. ``generator``: draws the noise; None in every process but one, for
    gradients are summed over processes and noise must be added once. C = ``clip``, σ = ``noise``, B = ``expected``.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    norms = []
    for loss_of in losses:
        for parameter in parameters.values():
            parameter.grad = None
        loss = loss_of()
        if loss is None or not loss.requires_grad:
            continue
        loss.backward()
        own = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        norm = float(torch.stack([gradient.norm() for gradient in own.values()]).norm()) if own else 0.0
        norms.append(norm)
        scale = 1.0 if math.isinf(spec.clip) else min(1.0, spec.clip / max(norm, torch.finfo(torch.float64).tiny))
        for name, gradient in own.items():
            total[name] += scale * gradient
    for name, parameter in parameters.items():
        if generator is not None and spec.noise:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            total[name] += (spec.noise * spec.clip * drawn).to(parameter)
        parameter.grad = total[name] / spec.expected
    return norms
