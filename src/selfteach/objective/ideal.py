"""Logit gradients on a set of candidate tokens, and how well two of them agree (https://arxiv.org/abs/2605.10889).

p is the student's next-token distribution, V_j the success probability once token j was taken. On the candidate set
C everything is taken at a fixed mass p(C): then nothing need be known of tokens outside, and C = the whole vocabulary
gives the full gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-6
"""A gradient no longer than this is rounding."""


def ideal_gradient(chance: Float[Tensor, "*n C"], value: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """[..., C] p_j and V_j → p_j (V_j − Σ p V): the ascent direction of the success probability in the logits.

    ``chance`` sums to 1 over the last dimension; padded candidates have chance 0.
    """
    return chance * (value - (chance * value).sum(-1, keepdim=True))


def within(gradient: Float[Tensor, "*n C"], chance: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
    """A loss's full logit gradient at the candidates [..., C] → its gradient at a fixed mass on them.

    ``chance`` [..., C]: p renormalized on C. Whatever moves mass into or out of C is taken away.
    """
    return gradient - chance * gradient.sum(-1, keepdim=True)


def cosine(one: Float[Tensor, "*n C"], other: Float[Tensor, "*n C"]) -> Float[Tensor, "*n"]:
    """[..., C], twice → [...] in [−1, 1]; NaN where either has no length to speak of."""
    length, theirs = one.norm(dim=-1), other.norm(dim=-1)
    score = (one * other).sum(-1) / (length * theirs)
    return torch.where((length > TINY) & (theirs > TINY), score, torch.nan)
