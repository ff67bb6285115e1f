"""Decoding from several contexts at once: each token is drawn from one of them, and all of them read it (MixSD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from selfteach.errors import NotFinite
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy, bare, body
from selfteach.policy.sampler import DIVERGED, Sampling, refuse_overlong

InPlace = Callable[[], AbstractContextManager[Policy]]
"""Within it a policy computes with certain weights (``WeightStore.scoring``)."""


class MixedSample(NamedTuple):
    """What was written after all contexts of a sequence.

    ``ids`` [T] include the stop token if it ``finished`` (else it ran into ``max_tokens``); ``picks`` [T] is the index
    of the context that gave each token.
    """

    ids: list[int]
    picks: list[int]
    finished: bool


def decode_mixture(
    policy: Policy,
    contexts: Sequence[Sequence[list[int]]],
    shares: Sequence[float],
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    max_tokens: int = 1024,
    generator: torch.Generator | None = None,
    weights: Sequence[InPlace] | None = None,
    batch_size: int | None = None,
) -> list[MixedSample]:
    """Write one text after several contexts, token by token from a context drawn anew (MixSD, arXiv 2605.16865).

    ``contexts``: for each of N sequences one prompt (token ids) a context, K of them, in the same order. At each
    position of each sequence context k is picked with probability ``shares[k]``, independently of everything else; it
    gives its likeliest token (``temperature`` 0) or a draw from softmax(its ``top_k`` largest logits / temperature)
    (0: all). So the next token's distribution is the mixture of those of the contexts. Every context then reads it.

    ``weights``: under which weights each context is read (none: the policy as it is). ``generator``: on the policy's
    device; none: torch's global one. ``batch_size`` sequences run at once (none: as many as there is memory for).

    Raises ValueError for shares that are not K probabilities, UserError for settings out of range and where a context
    plus ``max_tokens`` exceeds a window, NotFinite for a model that has diverged.
    """
    if any(len(each) != len(shares) for each in contexts):
        raise ValueError(f"contexts need {len(shares)} prompts a sequence, as there are shares")
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must be probabilities that sum to 1, got {list(shares)}")
    sampling = Sampling(max_tokens, temperature, top_k=top_k)
    # A sequence has a row in every context; they are padded to the longest.
    lengths = [len(shares) * max(map(len, each)) for each in contexts]
    parts = list(policy.room.sampling(lengths, len(shares) * max_tokens, batch_size))
    training = policy.model.training
    policy.model.eval()
    try:
        return [
            one
            for part in parts
            for one in _decode(policy, contexts[part.start : part.stop], shares, sampling, generator, weights)
        ]
    finally:
        policy.model.train(training)


@torch.no_grad()
def _decode(
    policy: Policy,
    contexts: Sequence[Sequence[list[int]]],
    shares: Sequence[float],
    sampling: Sampling,
    generator: torch.Generator | None,
    weights: Sequence[InPlace] | None,
) -> list[MixedSample]:
    by_context = [list(prompts) for prompts in zip(*contexts, strict=True)]
    if weights is None:  # one pass for all
        everything = list(chain.from_iterable(by_context))
        readers = [_Reader(lambda: nullcontext(policy), everything, policy, sampling)]
    else:
        readers = [
            _Reader(own, prompts, policy, sampling) for own, prompts in zip(weights, by_context, strict=True)
        ]
    device = policy.model.device
    rows, probability = torch.arange(len(contexts), device=device), torch.tensor(shares, device=device)
    stops = torch.tensor(sorted(policy.renderer.stop_ids), device=device)
    stopped = torch.zeros(len(contexts), dtype=torch.bool, device=device)
    written: list[Tensor] = []
    picks: list[Tensor] = []
    logits = torch.cat([reader.prompts() for reader in readers])
    while True:
        pick = torch.multinomial(probability, len(contexts), replacement=True, generator=generator)
        token = _drawn(logits.view(len(shares), len(contexts), -1)[pick, rows], sampling, generator)
        picks.append(pick)
        written.append(token)
        stopped |= torch.isin(token, stops)
        if stopped.all() or len(written) == sampling.max_tokens:
            break
        logits = torch.cat([reader.token(token) for reader in readers])
    columns = zip(torch.stack(written, 1).tolist(), torch.stack(picks, 1).tolist(), strict=True)
    return [_until_stop(ids, sources, policy.renderer.stop_ids) for ids, sources in columns]


class _Reader:
    """Rows that read the growing texts under one set of weights, with what they have read so far cached."""

    def __init__(
        self, in_place: InPlace, prompts: Sequence[list[int]], talker: Policy, sampling: Sampling
    ) -> None:
        with in_place() as policy:
            refuse_overlong(bare(policy.model), prompts, sampling)
        self.in_place, self.vocabulary = in_place, talker.vocabulary
        width, device = max(map(len, prompts)), talker.model.device
        pad = talker.renderer.pad_id
        self.ids = torch.tensor([[pad] * (width - len(one)) + one for one in prompts], device=device)
        self.attended = torch.tensor(
            [[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device
        )
        self.cache: Cache | None = None

    def prompts(self) -> Float[Tensor, "rows V"]:
        """[rows, V] logits of each row's first token."""
        return self._read(self.ids)

    def token(self, token: Int[Tensor, "N"]) -> Float[Tensor, "rows V"]:
        """[rows, V] logits of what follows the sequences' new tokens [N]; rows stand context by context."""
        self.attended = torch.cat([self.attended, torch.ones_like(self.attended[:, :1])], dim=1)
        return self._read(token.repeat(len(self.ids) // len(token))[:, None])

    def _read(self, ids: Int[Tensor, "rows L"]) -> Float[Tensor, "rows V"]:
        place = (self.attended.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with self.in_place() as policy:
            with policy.arithmetic():
                state = body(policy.model)(
                    input_ids=ids,
                    attention_mask=self.attended,
                    position_ids=place,
                    past_key_values=self.cache,
                    use_cache=True,
                )
            self.cache = state.past_key_values
            head = output_head(policy.model, self.vocabulary, mixed=policy.precision != "float32")
            return head.logits(state[0][:, -1]).float()


def _drawn(
    logits: Float[Tensor, "N V"], sampling: Sampling, generator: torch.Generator | None
) -> Int[Tensor, "N"]:
    """[N, V] logits → [N] tokens."""
    if not logits.isfinite().all():
        raise NotFinite(DIVERGED)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    if not sampling.top_k:
        chances = (logits / sampling.temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=generator).squeeze(1)
    largest, ids = logits.topk(min(sampling.top_k, logits.shape[-1]))
    chances = (largest / sampling.temperature).softmax(-1)
    return ids.gather(1, torch.multinomial(chances, 1, generator=generator)).squeeze(1)


def _until_stop(ids: list[int], picks: list[int], stop_ids: frozenset[int]) -> MixedSample:
    length = next((place + 1 for place, token in enumerate(ids) if token in stop_ids), None)
    return MixedSample(ids[:length], picks[:length], finished=length is not None)
