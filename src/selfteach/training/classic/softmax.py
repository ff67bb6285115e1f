"""Softmax regression in float64: classifiers that are linear in their inputs, and their best fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Loss = Callable[[Float[Tensor, "n c"], Float[Tensor, ""]], Float[Tensor, ""]]
"""Log-probs of n inputs, and the weight's squared norm → what a fit makes least: convex in the weight."""
ROUNDS = 500
"""Most iterations of a fit; on digits it takes fewer."""


def log_probs(x: Float[Tensor, "n d"], weight: Float[Tensor, "*k d c"]) -> Float[Tensor, "*k n c"]:
    """Of one classifier or several."""
    return (x @ weight).log_softmax(-1)


def fitted(x: Float[Tensor, "n d"], start: Float[Tensor, "d c"], loss: Loss) -> Float[Tensor, "d c"]:
    """The weight with the least ``loss``, up to a gradient of 1e-6, by L-BFGS (deterministic). Where it starts decides
    how long that takes, not what is found."""
    weight = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=ROUNDS, tolerance_grad=1e-6, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        found = loss(log_probs(x, weight), weight.square().sum())
        found.backward()
        return found

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()
