"""How a token is drawn: by a uniform number that belongs to its row and position, whatever the row is batched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from selfteach.errors import UserError
from selfteach.objective.uniform import starts_of, stream

AHEAD = 64
"""Positions whose numbers are made at once."""

COLDEST = 1e-6
"""The smallest temperature above 0: float32 logits over a far smaller one are not finite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: softmax(logits / temperature), cut to the ``top_k`` likeliest tokens (0:
    all), then to the smallest set of mass ``top_p``. Temperature 0 takes the likeliest token (greedy)."""

    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}: a rollout needs at least 1 token.")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: give 0 (greedy) or a positive number.")
        if 0 < self.temperature < COLDEST:
            raise UserError(
                f"temperature is {self.temperature}, too small to divide logits by: give 0 (greedy), or {COLDEST:g} at "
                "least."
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: give a probability mass above 0 and up to 1.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: give a number of tokens, or 0 to keep all.")

    def cut(self, scores: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """[N, V] logits over the temperature → the same with −inf at every token that may not be drawn."""
        chain = LogitsProcessorList()
        if self.top_k:
            chain.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            chain.append(TopPLogitsWarper(self.top_p))
        ids = torch.empty(0, dtype=torch.long, device=scores.device)
        cut: Float[Tensor, "N V"] = chain(ids, scores)  # type: ignore[arg-type]
        return cut


def keys_from_torch(rows: int) -> list[str]:
    """Keys of rows that nobody named: one draw from torch's global generator, and their numbers."""
    drawn = int(torch.randint(2**62, ()))
    return [f"{drawn} {i}" for i in range(rows)]


@dataclass
class Draws:
    """Draws tokens for rows, each from the stream of uniform numbers that its key begins.

    A row's t-th token is the first whose cumulative probability exceeds the t-th number: apart from rounding it depends
    on the row's own distribution and key, and on nothing else.
    """

    sampling: Sampling
    keys: Sequence[str]
    device: torch.device
    begun: int = -AHEAD
    numbers: Float[Tensor, "N AHEAD"] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = starts_of(self.keys, self.device)

    def __call__(
        self, logits: Float[Tensor, "N V"], rows: Int[Tensor, "N"], step: int
    ) -> tuple[Int[Tensor, "N"], Float[Tensor, "N"]]:
        """[N, V] logits of the ``step``-th token of these ``rows`` [N] → (tokens [N], their log-probs [N] in nats).

        The log-prob is that of softmax(logits / temperature) before any cut (temperature 1 for greedy); NaN where the
        logits are not finite numbers.
        """
        sampling = self.sampling
        if sampling.temperature == 0:
            token = logits.argmax(-1)
            return token, logits.log_softmax(-1).gather(1, token[:, None]).squeeze(1)
        scores = logits if sampling.temperature == 1 else logits / sampling.temperature
        highest = scores.amax(-1, keepdim=True)
        # In float64: summed up over 150,000 tokens a float32 would shift the later ones by more than they are likely.
        mass = (scores - highest).exp().cumsum(-1, dtype=torch.float64)
        token = self.inverse(self.kept(scores, highest, mass), self.numbers_of(rows, step))
        log_prob = (scores.gather(1, token) - highest).double() - mass[:, -1:].log()
        return token.squeeze(1), log_prob.squeeze(1).to(logits.dtype)

    def kept(
        self, scores: Float[Tensor, "N V"], highest: Float[Tensor, "N 1"], mass: Float[Tensor, "N V"]
    ) -> Float[Tensor, "N V"]:
        """The cumulative mass of the tokens that may be drawn."""
        if not self.sampling.top_k and self.sampling.top_p == 1:
            return mass
        return (self.sampling.cut(scores.clone()) - highest).exp().cumsum(-1, dtype=torch.float64)

    @staticmethod
    def inverse(mass: Float[Tensor, "N V"], number: Float[Tensor, "N"]) -> Int[Tensor, "N 1"]:
        """[N, 1] the first token whose cumulative mass exceeds its number's share of all."""
        place = torch.searchsorted(mass, number[:, None] * mass[:, -1:], right=True)
        return place.clamp(max=mass.shape[1] - 1)  # of NaN nothing is larger; it is refused by its log-prob

    def numbers_of(self, rows: Int[Tensor, "N"], step: int) -> Float[Tensor, "N"]:
        if not self.begun <= step < self.begun + AHEAD:
            self.begun = step
            self.numbers = stream(self.starts, step, AHEAD)
        return self.numbers[rows, step - self.begun]
