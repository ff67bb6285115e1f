"""Masked diffusion: what a denoiser's logits on masked copies of a sequence say of the whole of it (arXiv 2406.07524,
2502.09992). n sequences, L tokens that may be masked, V tokens of the vocabulary without the mask.

A sequence is scored on a copy in which x of its L tokens are masked, and may be on that copy's complement too, in which
the other L − x are: coupled, so that each token is scored once, given what the other copy hides.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def token_scores(
    logits: Float[Tensor, "*n V"], tokens: Int[Tensor, "*n"], *, centered: bool = False
) -> Float[Tensor, "*n"]:
    """log softmax(logits)[token], in nats; ``centered``: logits[token] − mean of the logits in its place, which no
    normalizer holds together (equation 8 of arXiv 2605.29398)."""
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - (logits.mean(-1) if centered else logits.logsumexp(-1))


def stratified_counts(n: int, length: int, start: int) -> Int[Tensor, "n"]:
    """How many of ``length`` tokens to mask in each of n sequences: start + b (length + 1)/n, rounded, modulo
    length + 1, b = 0 … n − 1. Spread over 0 … length whatever ``start`` is; where that is drawn evenly from these, each
    sequence's number is even on them. Halves are rounded up: to the even neighbor, even numbers would come oftener."""
    steps = (2 * torch.arange(n) * (length + 1) + n) // (2 * n)
    return (start + steps) % (length + 1)


def drawn_masks(counts: Int[Tensor, "n"], length: int) -> Bool[Tensor, "n L"]:
    """``counts`` of ``length`` places each, evenly at random by torch's global generator."""
    ranks = torch.rand(len(counts), length).argsort(1).argsort(1)
    return ranks < counts[:, None]


def sequence_scores(
    scores: Float[Tensor, "n L"],
    masked: Bool[Tensor, "n L"],
    complement: Float[Tensor, "n L"] | None = None,
    *,
    elbo_weighted: bool = False,
) -> Float[Tensor, "n"]:
    """Sum of ``scores`` over the masked tokens; or, given the scores on the ``complement`` copy, half the sum of all:
    ``scores`` where a token is masked, ``complement`` where it is not.

    ``elbo_weighted``: (L + 1)/x times those of a copy with x masked tokens. Where x is even on 0 … L and the scores
    are log-probs, the mean over masks is then the evidence lower bound of log p (arXiv 2406.07524), of either form;
    without, that of coupled masks is half a sum of log-probs.
    """
    inside = torch.where(masked, scores, 0.0)
    outside = None if complement is None else torch.where(masked, 0.0, complement)
    if elbo_weighted:
        length, hidden = masked.shape[1], masked.sum(1, keepdim=True, dtype=scores.dtype)
        inside = inside * ((length + 1) / hidden.clamp(min=1))
        outside = None if outside is None else outside * ((length + 1) / (length - hidden).clamp(min=1))
    return inside.sum(1) if outside is None else (inside + outside).sum(1) / 2
