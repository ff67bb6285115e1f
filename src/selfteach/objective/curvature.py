"""How sharp a loss is: the largest eigenvalue of its Hessian, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Float[Tensor, " p"]], Float[Tensor, " p"]]
"""v → Av of a symmetric matrix A."""


def largest_eigenvalue(
    loss: Float[Tensor, ""],
    parameters: Sequence[Float[Tensor, "..."]],
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> float:
    """λ_max of ∂² ``loss`` / ∂ ``parameters``² by power iteration on Hessian-vector products (Pearlmutter, 1994), from
    a direction that ``generator`` (of the CPU) draws.

    Where the eigenvalue of largest size is negative, as many ``steps`` on H − λI find the largest one. What is returned
    is at most λ_max, whatever the number of steps. ``loss`` must have its graph, which is kept.
    """
    flat = flattened(
        torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    )
    drawn = torch.randn(len(flat), generator=generator, dtype=torch.float64)
    direction = (drawn / drawn.norm()).to(flat)
    if not flat.requires_grad:  # linear in all of them
        return 0.0

    def times(vector: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        return flattened(
            torch.autograd.grad(
                flat, parameters, vector, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )

    dominant = dominant_eigenvalue(times, direction, steps)
    if dominant >= 0:
        return dominant
    return dominant + dominant_eigenvalue(lambda v: times(v) - dominant * v, direction, steps)


def dominant_eigenvalue(times: Product, direction: Float[Tensor, " p"], steps: int) -> float:
    """The eigenvalue of largest size: vᵀAv after ``steps`` of v ← Av / |Av| from the unit vector ``direction``."""
    for _ in range(steps):
        product = times(direction)
        if not (norm := product.norm()):
            return 0.0
        direction = product / norm
    return float(direction @ times(direction))


def flattened(parts: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, " p"]:
    return torch.cat([one.flatten() for one in parts])
