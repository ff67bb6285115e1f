"""Sampling by unmasking: every token is guessed at each step, and the least sure guesses are masked again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.training.masked.denoiser import Denoiser

Remasking = Literal["low_confidence", "entropy"]


def plan(length: int, steps: int, block_length: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, tokens to unmask) of each step: blocks of places in turn (the last may be shorter), each in its
    share of ``steps`` and at least one, as evenly as it goes and the remainder first; steps that unmask nothing are
    left out."""
    begins = range(0, length, block_length)
    each = max(1, steps // len(begins))
    for begin in begins:
        end = min(begin + block_length, length)
        base, left = divmod(end - begin, each)
        for step in range(min(each, end - begin)):
            yield begin, end, base + (step < left)


@torch.no_grad()
def sample(
    network: Denoiser,
    tokens: Int[Tensor, "n T"],
    places: Int[Tensor, "n L"],
    *,
    steps: int,
    block_length: int,
    temperature: float,
    remasking: Remasking,
) -> Int[Tensor, "n T"]:
    """``tokens`` with ``places`` filled. By torch's global generator; at temperature 0 nothing is drawn."""
    masked = torch.ones_like(places, dtype=torch.bool)
    tokens = network.masked_copies(tokens, places, masked)
    for begin, end, count in plan(places.shape[1], steps, block_length):
        logits = network.at(tokens, places)
        guess = drawn_tokens(logits, temperature)
        sure = confidence(logits, guess, remasking)
        sure[:, :begin] = sure[:, end:] = -torch.inf
        chosen = sure.masked_fill(~masked, -torch.inf).topk(count, dim=1).indices
        tokens = tokens.scatter(1, places.gather(1, chosen), guess.gather(1, chosen))
        masked = masked.scatter(1, chosen, False)
    return tokens


def drawn_tokens(logits: Float[Tensor, "n L V"], temperature: float) -> Int[Tensor, "n L"]:
    """A token of softmax(logits/temperature) in each place: the greatest of logits + temperature · Gumbel noise, in
    float64 (arXiv 2409.02908); at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    even = torch.rand(logits.shape, dtype=torch.float64).to(logits.device)
    return (logits - temperature * torch.log(-torch.log(even))).argmax(-1)


def confidence(
    logits: Float[Tensor, "n L V"], guess: Int[Tensor, "n L"], remasking: Remasking
) -> Float[Tensor, "n L"]:
    """How sure each place's guess is: its probability (of temperature 1), or minus the entropy of all."""
    log_p = logits.log_softmax(-1)
    if remasking == "low_confidence":
        return log_p.gather(-1, guess[..., None]).squeeze(-1)
    return (log_p.exp() * log_p).sum(-1)
