"""Sampling by vLLM, in this process or by a server: the same tokens in, the same samples out as from the model itself.

What is asked for is ids, and what comes back is ids: nothing is tokenized there. What an engine says is not trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Protocol

import torch
from jaxtyping import Shaped
from torch import Tensor

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.draws import Sampling, keys_from_torch
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import Sample, Watch, refuse_unwritable
from selfteach.policy.scorer import LocalScorer

LEAST, MOST = 0.01, 2.0
"""Temperatures between which vLLM samples as it is told: it raises lower ones, and refuses higher ones."""
ROUNDS = 3
"""Times that an engine may leave all that it is asked unanswered."""
OUTSIDE = -100.0
"""Added to the logits of rows of the embedding that the tokenizer has no token for: nobody samples them."""
ABOVE_ZERO = 1e-3
"""A log-prob may be so far above 0, by rounding."""
POSITIONS = 1024
"""Tokens that are scored anew at once: of each there is a row as wide as the vocabulary."""


@dataclass(frozen=True)
class Request:
    """One answer that is asked for: what is read, how tokens are drawn, and the ``seed`` (63 bits) of the draws."""

    ids: list[int]
    sampling: Sampling
    seed: int
    stop_ids: tuple[int, ...]
    outside: tuple[int, ...] = ()
    """Ids that are no token."""


@dataclass(frozen=True)
class Completion:
    """What an engine says that it wrote: ids with the stop token, and a log-prob (nats) of each."""

    ids: list[int]
    log_probs: list[float]


class Engine(Protocol):
    """vLLM, wherever it runs."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def window(self) -> int:
        """Most tokens of a prompt and its answer together."""

    def complete(
        self, requests: Sequence[Request], watch: Watch | None = None
    ) -> list[Completion | None]: ...

    def score(self, ids: list[int]) -> list[float]:
        """Log-probs (nats, temperature 1) of all tokens but the first, each after those before it."""

    def load(self, weights: Mapping[str, Shaped[Tensor, "..."]], version: str) -> None:
        """Compute with these weights from now on, and forget what was kept of others."""

    def holds(self, version: str) -> bool:
        """Whether it still computes with the weights loaded as ``version``."""

    def wait(self) -> None:
        """Until it answers again. UserError if it does not."""


@dataclass
class VllmSampler:
    """Samples of ``policy`` by an ``engine`` that has its weights, if ``sync`` gave it these.

    ``watch`` is told the share of the rows that is done. ``weights_of``: the policy's weights as the engine reads them,
    for one that was restarted. ``run`` names the run, the same in all its processes, ``pushes`` counts.
    """

    policy: Policy
    engine: Engine
    weights_of: Callable[[], Mapping[str, Shaped[Tensor, "..."]]]
    run: str
    watch: Watch | None = None
    pushes: int = 0

    def sample(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[Sample]:
        """Continue each prompt once, as ``LocalSampler.sample`` does; ``batch_size`` is the engine's own business.

        A row's seed follows from its key, so that its answer depends on its prompt and key, apart from rounding.
        ``behavior`` is the engine's log-prob; with ``top_k`` or ``top_p``, after which it has renormalized, that of the
        policy itself, scored anew. UserError where an engine is gone, or says what is no answer to what it was asked.
        """
        refuse_unwritable(bare(self.policy.model), prompts, sampling)
        longest = max(map(len, prompts), default=0) + sampling.max_tokens
        require(
            longest <= self.engine.window,
            f"{self.engine.name} reads {self.engine.window} tokens at most, and a prompt with its answer may have "
            f"{longest}: raise vllm_max_model_len (of a server --max-model-len), or lower max_tokens",
        )
        require(
            sampling.temperature == 0 or LEAST <= sampling.temperature <= MOST,
            f"temperature is {sampling.temperature}: vLLM samples at {LEAST:g} to {MOST:g}, or at 0 (greedy); leave "
            "--use-vllm out for others",
        )
        keys = keys_from_torch(len(prompts)) if keys is None else keys
        if len(keys) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(keys)} keys: every row needs one")
        rows = bare(self.policy.model).get_output_embeddings().weight.shape[0]
        stops, outside = tuple(sorted(self.policy.renderer.stop_ids)), range(self.policy.vocabulary, rows)
        asked = [
            Request(ids, sampling, seed_of(key), stops, tuple(outside))
            for ids, key in zip(prompts, keys, strict=True)
        ]
        answers = self.answered(asked)
        samples = [self.sample_of(*both) for both in zip(asked, answers, strict=True)]
        cut = sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)
        return scored_anew(self.policy, prompts, samples, sampling.temperature) if cut else samples

    def answered(self, asked: Sequence[Request]) -> list[Completion]:
        """An answer to each request, all of them written by the weights that were pushed last.

        Where the engine was gone in between, it is waited for, given its weights again, and asked again.
        """
        found: dict[int, Completion] = {}
        idle = 0
        while len(found) < len(asked):
            waiting = [i for i in range(len(asked)) if i not in found]
            told = self.engine.complete([asked[i] for i in waiting], self.watch)
            held = self.engine.holds(self.version)
            new = {i: one for i, one in zip(waiting, told, strict=True) if one is not None} if held else {}
            found |= new
            if len(found) == len(asked):
                break
            idle = 0 if new else idle + 1
            require(
                idle < ROUNDS,
                f"{self.engine.name} left all of {len(waiting)} requests unanswered {ROUNDS} times: look at its log, "
                "then go on with --resume",
            )
            self.engine.wait()
            if not self.engine.holds(self.version):
                self.engine.load(self.weights_of(), self.version)
        return [found[i] for i in range(len(asked))]

    def sample_of(self, asked: Request, told: Completion) -> Sample:
        """The sample, if it is an answer to what was asked. UserError if not."""
        problem = wrong_with(asked, told, self.policy.vocabulary)
        if problem is not None:
            raise UserError(f"{self.engine.name} gave no answer to what it was asked: {problem}")
        return Sample(told.ids, told.log_probs, finished=told.ids[-1] in asked.stop_ids)

    def sync(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Sample with these weights from now on.

        They are pushed whole: vLLM lays several of a layer's matrices into one, and cannot take a part of it.
        """
        self.pushes += 1
        self.engine.load(weights, self.version)

    @property
    def version(self) -> str:
        """What the engine calls the weights that it was given last."""
        return f"selfteach-{self.run}-{self.pushes}"


def seed_of(key: str) -> int:
    """63 bits that follow from a row's key."""
    return int.from_bytes(sha256(key.encode()).digest()[:8]) >> 1


def wrong_with(asked: Request, told: Completion, vocabulary: int) -> str | None:
    """Why a completion cannot be what was asked for; None: it can."""
    ids, log_probs = told.ids, told.log_probs
    if len(ids) != len(log_probs):
        return f"{len(ids)} tokens with {len(log_probs)} log-probs"
    if any(not 0 <= one < vocabulary for one in ids):
        return f"a token that this model's tokenizer of {vocabulary} lacks: it serves another model"
    if any(not math.isfinite(one) or one > ABOVE_ZERO for one in log_probs):
        return "a log-prob that is none"
    stop = next((i for i, one in enumerate(ids) if one in asked.stop_ids), None)
    if stop is not None and stop + 1 < len(ids):
        return "an answer that goes on behind its stop token"
    wanted = asked.sampling.max_tokens
    if len(ids) > wanted or (stop is None and len(ids) < wanted):
        return f"{len(ids)} tokens without a stop token, where {wanted} were asked for"
    return None


def log_probs_of(
    policy: Policy, contexts: list[list[int]], responses: list[list[int]], temperature: float = 1.0
) -> list[list[float]]:
    """The policy's own log-probs (nats) of responses, at a temperature (0: at 1, as of a greedy answer)."""
    head = output_head(policy.model, policy.vocabulary, mixed=policy.precision != "float32")
    states = LocalScorer().states(policy, contexts, responses)
    ids = torch.tensor([token for one in responses for token in one], device=states.device)
    told: list[float] = []
    for part, tokens in zip(states.split(POSITIONS), ids.split(POSITIONS), strict=True):
        log_probs = (head.logits(part).float() / (temperature or 1.0)).log_softmax(-1)
        told += log_probs.gather(1, tokens[:, None]).squeeze(1).tolist()
    ends = list(accumulate(map(len, responses)))
    return [told[end - len(one) : end] for one, end in zip(responses, ends, strict=True)]


@torch.no_grad()
def scored_anew(
    policy: Policy, prompts: Sequence[list[int]], samples: Sequence[Sample], temperature: float
) -> list[Sample]:
    """The samples with the policy's own log-probs at the sampling temperature, before any cut."""
    lengths = [len(context) + len(one.ids) for context, one in zip(prompts, samples, strict=True)]
    found: list[Sample] = []
    for batch in policy.room.scoring(lengths):
        rows = [samples[i] for i in batch]
        told = log_probs_of(policy, [prompts[i] for i in batch], [one.ids for one in rows], temperature)
        found += [Sample(one.ids, own, one.finished) for one, own in zip(rows, told, strict=True)]
    return found
