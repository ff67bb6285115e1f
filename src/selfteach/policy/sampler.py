"""Sampling from a policy: the protocol, and transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selfteach.errors import NotFinite, UserError
from selfteach.policy.head import exact_logits
from selfteach.policy.loading import Policy, bare, context_window


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
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: give a probability mass above 0 and up to 1.")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: give a number of tokens, or 0 to keep all.")


Watch = Callable[[float], None]
"""Is told now and then what share of a piece of work is done, 0 to 1; it may jump ahead, as answers end early."""
DIVERGED = "the policy's next-token distribution is not finite"


@dataclass(frozen=True)
class Sample:
    """What the policy wrote after a prompt.

    ``ids`` [T] include the stop token if it ``finished`` (else it ran into ``max_tokens``). ``behavior`` [T]
    is each token's log-prob in nats under softmax(logits / temperature) over the tokenizer's vocabulary
    *before* any top-k or top-p cut (temperature 1 for greedy), so that an importance ratio against the
    unchanged policy is 1.
    """

    ids: list[int]
    behavior: list[float]
    finished: bool


class Sampler(Protocol):
    """Whatever writes tokens after prompts: ``generate`` here, an engine with weights of its own elsewhere."""

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, batch_size: int | None = None
    ) -> list[Sample]: ...

    def sync(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Sample with these named weights from now on."""


@dataclass(frozen=True)
class GenerateSampler:
    """transformers' own ``generate`` on the policy's own module, in the policy's precision.

    ``watch`` is told the share of all tokens that could be written.
    """

    policy: Policy
    watch: Watch | None = None

    def sample(
        self, prompts: list[list[int]], sampling: Sampling, *, batch_size: int | None = None
    ) -> list[Sample]:
        """Continue each prompt once; the samples come in the order of the prompts.

        Draws from torch's global generator only, ignores the generation defaults stored with the model, and
        leaves the model in the mode (train or eval) it was in. ``batch_size`` prompts run at once (None: as many
        as the policy's room has memory for). Raises UserError where a prompt plus ``max_tokens`` exceeds the model's
        context window, NotFinite where the model's logits are not.
        """
        refuse_overlong(bare(self.policy.model), prompts, sampling)
        batches = list(
            self.policy.room.sampling([len(one) for one in prompts], sampling.max_tokens, batch_size)
        )
        found: list[Sample] = []
        with self._plain_generation(sampling) as config, self._arithmetic():
            for batch in batches:
                watch = self._watch_of(batch, len(prompts), sampling.max_tokens)
                found += self._batch(prompts[batch.start : batch.stop], sampling, config, watch)
        return found

    def _watch_of(self, batch: range, rows: int, max_tokens: int) -> Callable[[int], None]:
        """What is told, while a batch is sampled, how many tokens each of its rows has."""

        def told(written: int) -> None:
            if self.watch is not None:
                self.watch((batch.start + len(batch) * written / max_tokens) / rows)

        return told

    def sync(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Nothing to do: it samples from the module whose weights these are."""

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """The policy's precision, but for the logits, from which the behavior log-probs come."""
        if self.policy.precision == "float32":
            yield
        else:
            with self.policy.arithmetic(), exact_logits(self.policy.model):
                yield

    @contextmanager
    def _plain_generation(self, sampling: Sampling) -> Iterator[GenerationConfig]:
        """Evaluation mode and neutral generation defaults, whatever the model's folder says; restored after."""
        model, renderer = bare(self.policy.model), self.policy.renderer
        # The processors do what is asked.
        draw = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        plain = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=sorted(renderer.stop_ids),
            pad_token_id=renderer.pad_id,
            **(draw if sampling.temperature > 0 else {"do_sample": False}),
        )
        training, stored = model.training, model.generation_config
        model.eval()
        model.generation_config = plain
        try:
            yield plain
        finally:
            model.generation_config = stored
            model.train(training)

    def _batch(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        config: GenerationConfig,
        watch: Callable[[int], None],
    ) -> list[Sample]:
        model, renderer = bare(self.policy.model), self.policy.renderer
        width = max(map(len, prompts))
        padded = [[renderer.pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
        attended = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        # The tokenizer's width, not the policy's: an id that a shorter matrix lacks could never be drawn.
        recorder = _Recorder(renderer.vocabulary, watch)
        generate: Callable[..., Tensor] = model.generate  # type: ignore[assignment]
        try:
            sequences = generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(attended, device=model.device),
                generation_config=config,
                logits_processor=_processors(recorder, sampling),
            )
        except RuntimeError as problem:
            if "probability tensor" not in str(problem):
                raise
            raise NotFinite(DIVERGED) from None
        written = sequences[:, width:]
        behavior = recorder.log_probs(written)
        if behavior.isnan().any():
            raise NotFinite(DIVERGED)
        rows = zip(written.tolist(), behavior.tolist(), strict=True)
        return [_until_stop(ids, log_probs, renderer.stop_ids) for ids, log_probs in rows]


def refuse_overlong(policy: PreTrainedModel, prompts: Sequence[list[int]], sampling: Sampling) -> None:
    """UserError if a prompt and the longest answer to it do not fit the model's window together."""
    window = context_window(policy)
    longest = max(map(len, prompts), default=0)
    if longest + sampling.max_tokens > window:
        raise UserError(
            f"A prompt of {longest} tokens plus max_tokens {sampling.max_tokens} exceeds the model's context "
            f"window of {window} tokens: lower max_tokens, or leave the longest rows out (max_chars)."
        )


def _processors(recorder: _Recorder, sampling: Sampling) -> LogitsProcessorList:
    """Temperature, then the record, then the cuts: so the record is that of the uncut softmax."""
    chain = LogitsProcessorList()
    if sampling.temperature not in (0.0, 1.0):
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    chain.append(recorder)
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    return chain


def _until_stop(ids: list[int], behavior: list[float], stop_ids: frozenset[int]) -> Sample:
    length = next((place + 1 for place, token in enumerate(ids) if token in stop_ids), None)
    return Sample(ids[:length], behavior[:length], finished=length is not None)


class _Recorder(LogitsProcessor):
    """Forbids ids outside the vocabulary and notes each drawn token's log-prob, one [N, V] array at a time.

    A processor sees the scores before the draw, so a step's token is known, and its log-prob gathered, only
    at the next call (the last one's in ``log_probs``).
    """

    def __init__(self, vocabulary: int, watch: Callable[[int], None]) -> None:
        self.vocabulary, self.watch = vocabulary, watch
        self.columns: list[Tensor] = []
        self.pending: Tensor | None = None

    def __call__(self, input_ids: Int[Tensor, "N L"], scores: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        self._gather(input_ids[:, -1])
        self.watch(len(self.columns))
        scores[:, self.vocabulary :] = -torch.inf
        self.pending = torch.log_softmax(scores, dim=-1)
        return scores

    def _gather(self, tokens: Int[Tensor, "N"]) -> None:
        if self.pending is not None:
            self.columns.append(self.pending.gather(1, tokens[:, None]))

    def log_probs(self, written: Int[Tensor, "N L"]) -> Float[Tensor, "N L"]:
        """[N, L] for the ``written`` [N, L] ids; steps that ``generate`` undid at the end are dropped."""
        if len(self.columns) < written.shape[1]:
            self._gather(written[:, -1])
        return torch.cat(self.columns[: written.shape[1]], dim=1)
