"""Gradients of single records, clipped, summed and noised: one step of DP-SGD (DP-OPD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfteach.recipes.parts import PerRecord
from selfteach.training.learner import Numbers
from selfteach.training.reduce import sum_over_processes

Record = Callable[[], Iterable[Float[Tensor, ""]]]
"""Gives the summands of one record's loss, each to be differentiated before the next is made."""


def private_gradient(
    records: Iterable[Record],
    parameters: Mapping[str, nn.Parameter],
    spec: PerRecord,
    generator: torch.Generator | None,
) -> Numbers:
    """Fill ``.grad`` with (Σ_i g_i min(1, C / ‖g_i‖) + N(0, σ²C²)) / B over this process's records i.

    C = ``clip``, σ = ``noise``, B = ``expected``. There may be no record at all; then the step is pure noise.
    ``generator`` draws it, on the CPU; None in every process but one, for gradients are summed over processes and
    noise is added once. Returns, over all processes, ``loss`` = Σ_i ℓ_i / B, and ``clipped``, the share of the records
    whose gradient was longer than C.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    losses, clipped = [], []
    for record in records:
        for parameter in parameters.values():
            parameter.grad = None
        loss = 0.0
        for part in record():
            loss += float(part.detach())
            if part.requires_grad:
                part.backward()
        own = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in own.values()))
        for name, gradient in own.items():
            total[name].add_(gradient, alpha=min(1.0, spec.clip / norm) if norm else 1.0)
        losses.append(loss)
        clipped.append(norm > spec.clip)
    for name, parameter in parameters.items():
        if generator is not None and spec.noise:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            total[name] += (spec.noise * spec.clip * drawn).to(parameter)
        parameter.grad = total[name] / spec.expected
    seen = sum_over_processes({"loss": sum(losses), "clipped": sum(clipped), "records": len(losses)})
    return {"loss": seen["loss"] / spec.expected, "clipped": seen["clipped"] / max(1, seen["records"])}
