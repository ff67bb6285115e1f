"""Decoding from several contexts at once: each token is drawn from one of them, and all of them read it (MixSD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.errors import UserError
from selfteach.objective.uniform import starts_of, stream
from selfteach.policy.cache import reads_by_token
from selfteach.policy.draws import Draws, Sampling, keys_from_torch
from selfteach.policy.loading import Policy, bare
from selfteach.policy.reader import InPlace, Reader
from selfteach.policy.sampler import Log, in_evaluation, refuse_unwritable


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
    keys: Sequence[str] | None = None,
    weights: Sequence[InPlace] | None = None,
    batch_size: int | None = None,
) -> list[MixedSample]:
    """Write one text after several contexts, token by token from a context drawn anew (MixSD, arXiv 2605.16865).

    ``contexts``: for each of N sequences one prompt (token ids) a context, K of them, in the same order. At each
    position of each sequence context k is picked with probability ``shares[k]``, independently of everything else; it
    gives its likeliest token (``temperature`` 0) or a draw from softmax(its ``top_k`` largest logits / temperature)
    (0: all). So the next token's distribution is the mixture of those of the contexts. Every context then reads it.

    ``weights``: under which weights each context is read (none: the policy as it is). ``keys``: what each sequence's
    random numbers follow from (none: from torch's global generator). ``batch_size`` sequences run at once (none: as
    many as there is memory for).

    Raises ValueError for shares that are not K probabilities and another number of keys than of sequences, UserError
    for settings out of range, for a model that cannot be read token by token, for a context without a token and where
    one plus ``max_tokens`` exceeds a window, NotFinite for a model that has diverged.
    """
    if any(len(each) != len(shares) for each in contexts):
        raise ValueError(f"contexts need {len(shares)} prompts a sequence, as there are shares")
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares must be probabilities that sum to 1, got {list(shares)}")
    sampling = Sampling(max_tokens, temperature, top_k=top_k)
    keys = keys_from_torch(len(contexts)) if keys is None else keys
    if len(keys) != len(contexts):
        raise ValueError(f"{len(contexts)} sequences and {len(keys)} keys: every sequence needs one")
    readers = [lambda: nullcontext(policy)] if weights is None else weights
    for one in readers:
        refuse_unreadable(one, [ids for each in contexts for ids in each], sampling)
    # A sequence has a row in every context; they are padded to the longest.
    lengths = [len(shares) * max(map(len, each)) for each in contexts]
    parts = list(policy.room.sampling(lengths, len(shares) * max_tokens, batch_size))
    with in_evaluation(bare(policy.model)):
        return [
            one
            for part in parts
            for one in _decode(
                policy,
                contexts[part.start : part.stop],
                shares,
                sampling,
                keys[part.start : part.stop],
                weights,
            )
        ]


def refuse_unreadable(in_place: InPlace, prompts: Sequence[list[int]], sampling: Sampling) -> None:
    with in_place() as policy:
        refuse_unwritable(bare(policy.model), prompts, sampling)
        if not reads_by_token(policy.model):
            raise UserError(
                f"{type(bare(policy.model)).__name__} cannot write from several contexts at once: it remembers a text "
                "otherwise than by attention's keys and values; use another model."
            )


def _decode(
    policy: Policy,
    contexts: Sequence[Sequence[list[int]]],
    shares: Sequence[float],
    sampling: Sampling,
    keys: Sequence[str],
    weights: Sequence[InPlace] | None,
) -> list[MixedSample]:
    device, sources = policy.model.device, len(shares)
    reading = _Readers(policy, contexts, weights)
    rows = torch.arange(len(contexts), device=device)
    stops = torch.tensor(sorted(policy.renderer.stop_ids), dtype=torch.long, device=device)
    stopped = torch.zeros_like(rows, dtype=torch.bool)
    draws, picking = Draws(sampling, keys, device), starts_of([f"{key} pick" for key in keys], device)
    upto = torch.tensor(shares, dtype=torch.float64, device=device).cumsum(0)
    log = Log(len(contexts), policy.renderer.stop_ids)
    picked: list[Tensor] = []
    logits = reading.prompts()
    for step in range(sampling.max_tokens):
        number = stream(picking, step, 1).squeeze(1)
        pick = torch.searchsorted(upto, number, right=True).clamp(max=sources - 1)
        token, log_prob = draws(logits[pick, rows], rows, step)
        log.note(rows, token, log_prob)
        picked.append(pick)
        stopped = stopped | torch.isin(token, stops)
        if stopped.all():
            break
        if step + 1 < sampling.max_tokens:
            logits = reading.token(token)
    return [
        MixedSample(one.ids, row[: len(one.ids)], one.finished)
        for one, row in zip(log.samples(), torch.stack(picked, 1).tolist(), strict=True)
    ]


class _Readers:
    """Who reads the growing texts: one reader of all contexts where the weights are the same, else one a context."""

    def __init__(
        self,
        policy: Policy,
        contexts: Sequence[Sequence[list[int]]],
        weights: Sequence[InPlace] | None,
    ) -> None:
        by_context = [list(prompts) for prompts in zip(*contexts, strict=True)]
        self.contexts, width = len(by_context), policy.vocabulary
        if weights is None:
            everything = list(chain.from_iterable(by_context))
            self.readers = [Reader(lambda: nullcontext(policy), everything, width)]
        else:
            self.readers = [
                Reader(own, prompts, width) for own, prompts in zip(weights, by_context, strict=True)
            ]

    def prompts(self) -> Float[Tensor, "K N V"]:
        return self._by_context([one.prompts() for one in self.readers])

    def token(self, token: Int[Tensor, "N"]) -> Float[Tensor, "K N V"]:
        repeats = self.contexts // len(self.readers)
        return self._by_context([one.token(token.repeat(repeats)) for one in self.readers])

    def _by_context(self, logits: Sequence[Float[Tensor, "rows V"]]) -> Float[Tensor, "K N V"]:
        return torch.cat(list(logits)).view(self.contexts, -1, logits[0].shape[-1])
