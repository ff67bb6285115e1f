"""The temperature at which a distribution is as undecided as it should be."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.axes import LogProbs
from selfteach.objective.positions import log_softmax


def entropy_at(logits: LogProbs, temperature: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """[…] entropy (nats) of softmax(logits / temperature); it rises with the temperature, up to log V."""
    log_probs = log_softmax(logits / temperature.unsqueeze(-1))
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1)


def temperature_of(
    logits: LogProbs, entropy: Float[Tensor, "*P"], low: float, high: float, rounds: int = 20
) -> Float[Tensor, "*P"]:
    """[…] the temperature in [``low``, ``high``] at which softmax(logits / temperature) has this ``entropy`` (nats), by
    so many ``rounds`` of bisection; the nearer end where none in between has it.

    Off by (high − low) / 2^rounds at most. Raises ValueError unless 0 < low ≤ high.
    """
    if not 0 < low <= high:
        raise ValueError(f"temperatures must satisfy 0 < low <= high, got {low} and {high}")
    under, over = torch.full_like(entropy, low), torch.full_like(entropy, high)
    for _ in range(rounds):
        middle = (under + over) / 2
        cold = entropy_at(logits, middle) < entropy
        under, over = torch.where(cold, middle, under), torch.where(cold, over, middle)
    return (under + over) / 2
