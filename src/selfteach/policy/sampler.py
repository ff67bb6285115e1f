"""Sampling from a policy: the protocol, and decoding with the policy's own module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from selfteach.checks import require
from selfteach.errors import NotFinite, UserError
from selfteach.policy.cache import reads_by_token
from selfteach.policy.draws import Draws, Sampling, keys_from_torch
from selfteach.policy.head import exact_logits, output_head
from selfteach.policy.loading import Policy, bare, context_window
from selfteach.policy.passes import left
from selfteach.policy.reader import Reader
from selfteach.policy.recorded import RecordedReader, can_record
from selfteach.policy.reordered import reordered, reordered_head
from selfteach.policy.sharding import whole

Watch = Callable[[float], None]
"""Is told now and then what share of a piece of work is done, 0 to 1; it may jump ahead, as answers end early."""
EMPTY = "a prompt has no tokens, so that nothing predicts its answer's first one: look at the chat template"
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
    """Whatever writes tokens after prompts: a model in this process, or an engine with weights of its own elsewhere."""

    def sample(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[Sample]: ...

    def sync(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Sample with these named weights from now on."""


@dataclass(frozen=True)
class LocalSampler:
    """Samples with the policy's own module, in the policy's precision. ``watch`` is told the share of all tokens that
    could be written.

    Equal prompts are read once, rows that have stopped leave the batch. A model that remembers a text otherwise than by
    keys and values (state-space, recurrent) is sampled by transformers' ``generate``, every row to the end.
    """

    policy: Policy
    watch: Watch | None = None

    def sample(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        keys: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[Sample]:
        """Continue each prompt once; the samples come in the order of the prompts.

        ``keys``: what each row's random numbers follow from, one a row (None: from torch's global generator). A row's
        answer depends on its prompt and key alone, apart from rounding: not on the batch, the order or the number of
        processes; equal prompts under equal keys give equal answers.

        Ignores the generation defaults stored with the model, and leaves the model in the mode (train or eval) it was
        in. ``batch_size`` prompts run at once (None: as many as the policy's room has memory for). Raises UserError
        where a prompt plus ``max_tokens`` exceeds the model's context window, NotFinite where the model's logits are
        not, ValueError for another number of keys than of prompts.
        """
        model = bare(self.policy.model)
        refuse_unwritable(model, prompts, sampling)
        if keys is None:  # a greedy answer asks no generator
            keys = keys_from_torch(len(prompts)) if sampling.temperature else [""] * len(prompts)
        if len(keys) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts and {len(keys)} keys: every row needs one")
        lengths = [len(one) for one in prompts]
        batches = list(self.policy.room.sampling(lengths, sampling.max_tokens, batch_size))
        found: list[Sample] = []
        with in_evaluation(model), whole(model):
            for batch in batches:
                draws = Draws(sampling, keys[batch.start : batch.stop], model.device)
                told = self._watch_of(batch, len(prompts), sampling.max_tokens)
                found += self._batch(prompts[batch.start : batch.stop], draws, told)
        return found

    def _batch(self, prompts: list[list[int]], draws: Draws, watch: Callable[[int], None]) -> list[Sample]:
        return write(self.policy, prompts, draws, watch)

    def _watch_of(self, batch: range, rows: int, max_tokens: int) -> Callable[[int], None]:
        """What is told, while a batch is sampled, how many tokens each of its rows has."""

        def told(written: int) -> None:
            if self.watch is not None:
                self.watch((batch.start + len(batch) * written / max_tokens) / rows)

        return told

    def sync(self, weights: Mapping[str, Shaped[Tensor, "..."]]) -> None:
        """Nothing to do: it samples from the module whose weights these are."""


def write(
    policy: Policy, prompts: Sequence[list[int]], draws: Draws, watch: Callable[[int], None]
) -> list[Sample]:
    """The answers to one batch of prompts, by whichever way the model allows; without gradient, in evaluation mode."""
    way = decoded if reads_by_token(policy.model) else generated
    return way(policy, prompts, draws, watch)


@contextmanager
def in_evaluation(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def decoded(
    policy: Policy, prompts: Sequence[list[int]], draws: Draws, watch: Callable[[int], None]
) -> list[Sample]:
    """Token by token over a cache of keys and values; rows that have stopped leave as soon as they are many
    (``Reader.leaving``)."""
    memory = policy.room.memory
    head = output_head(policy.model, policy.vocabulary, mixed=policy.precision != "float32")
    head = reordered_head(head, len(prompts), memory)
    new = draws.sampling.max_tokens
    kind = RecordedReader if can_record(policy.model, new) else Reader
    reader = kind(lambda: nullcontext(policy), prompts, policy.vocabulary, head, new)
    with reordered(policy.model, len(prompts), memory), closing(reader):
        return written(policy, reader, draws, watch)


def written(policy: Policy, reader: Reader, draws: Draws, watch: Callable[[int], None]) -> list[Sample]:
    """What the reader's rows write until all have stopped or are as long as they may be."""
    log = Log(len(draws.keys), policy.renderer.stop_ids)
    stops = torch.tensor(sorted(policy.renderer.stop_ids), dtype=torch.long, device=draws.device)
    rows = torch.arange(len(draws.keys), device=draws.device)
    stopped = torch.zeros_like(rows, dtype=torch.bool)
    logits = reader.prompts()
    for step in range(draws.sampling.max_tokens):
        watch(step)
        token, log_prob = draws(logits, rows, step)
        log.note(rows, token, log_prob)
        stopped = stopped | torch.isin(token, stops)
        if step + 1 == draws.sampling.max_tokens:
            break
        if looks(step, rows.device) and (gone := int(stopped.sum())):
            if gone == len(rows):
                break
            if gone >= reader.leaving * len(rows):
                staying = (~stopped).nonzero().squeeze(1)
                reader.keep(staying)
                rows, token, stopped = rows[staying], token[staying], stopped[staying]
        logits = reader.token(token)
    return log.samples()


LOOKS = 16
"""Tokens between looks at who has stopped on an accelerator, where a look waits for all that was computed."""


def looks(step: int, device: torch.device) -> bool:
    return device.type == "cpu" or step % LOOKS == LOOKS - 1


class Log:
    """What was drawn, column by column, as long as it must not be looked at."""

    def __init__(self, rows: int, stop_ids: frozenset[int]) -> None:
        self.rows, self.stop_ids = rows, stop_ids
        self.columns: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(self, rows: Int[Tensor, "n"], token: Int[Tensor, "n"], log_prob: Float[Tensor, "n"]) -> None:
        self.columns.append((rows, token, log_prob))

    def samples(self) -> list[Sample]:
        """Every row up to its first stop token. NotFinite where a log-prob is NaN."""
        first = self.columns[0][1]
        ids = first.new_zeros(self.rows, len(self.columns))
        behavior = self.columns[0][2].new_zeros(self.rows, len(self.columns))
        for step, (rows, token, log_prob) in enumerate(self.columns):
            ids[rows, step], behavior[rows, step] = token, log_prob
        if behavior.isnan().any():
            raise NotFinite(DIVERGED)
        pairs = zip(ids.tolist(), behavior.tolist(), strict=True)
        return [_until_stop(row, log_probs, self.stop_ids) for row, log_probs in pairs]


def generated(
    policy: Policy, prompts: Sequence[list[int]], draws: Draws, watch: Callable[[int], None]
) -> list[Sample]:
    """By transformers' own ``generate``, which a processor tells each token to take."""
    model, renderer = bare(policy.model), policy.renderer
    choice = _Choice(draws, policy.vocabulary, Log(len(prompts), renderer.stop_ids), watch)
    generate: Callable[..., Tensor] = model.generate  # type: ignore[assignment]
    with _plain_generation(policy, draws.sampling) as config, _arithmetic(policy):
        generate(
            input_ids=left(prompts, renderer.pad_id).to(model.device),
            attention_mask=left([[1] * len(prompt) for prompt in prompts], 0).to(model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([choice]),
        )
    return choice.log.samples()


class _Choice(LogitsProcessor):
    """Draws each row's token itself, and leaves ``generate``, which takes the likeliest, no other."""

    def __init__(self, draws: Draws, vocabulary: int, log: Log, watch: Callable[[int], None]) -> None:
        self.draws, self.vocabulary, self.log, self.watch = draws, vocabulary, log, watch

    def __call__(self, input_ids: Int[Tensor, "N L"], scores: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        step = len(self.log.columns)
        self.watch(step)
        rows = torch.arange(len(scores), device=scores.device)
        token, log_prob = self.draws(scores[:, : self.vocabulary].float(), rows, step)
        self.log.note(rows, token, log_prob)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


@contextmanager
def _arithmetic(policy: Policy) -> Iterator[None]:
    """The policy's precision, but for the logits, from which the behavior log-probs come."""
    if policy.precision == "float32":
        yield
    else:
        with policy.arithmetic(), exact_logits(policy.model):
            yield


@contextmanager
def _plain_generation(policy: Policy, sampling: Sampling) -> Iterator[GenerationConfig]:
    """Neutral generation defaults, whatever the model's folder says; restored after."""
    model, renderer = bare(policy.model), policy.renderer
    plain = GenerationConfig(
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=renderer.pad_id,
        do_sample=False,
    )
    stored = model.generation_config
    model.generation_config = plain
    try:
        yield plain
    finally:
        model.generation_config = stored


def refuse_unwritable(policy: PreTrainedModel, prompts: Sequence[list[int]], sampling: Sampling) -> None:
    """UserError if a prompt has no token, or it and the longest answer to it do not fit the model's window together."""
    window = context_window(policy)
    require(all(prompts), EMPTY)
    longest = max(map(len, prompts), default=0)
    if longest + sampling.max_tokens > window:
        raise UserError(
            f"A prompt of {longest} tokens plus max_tokens {sampling.max_tokens} exceeds the model's context "
            f"window of {window} tokens: lower max_tokens, or leave the longest rows out (max_chars)."
        )


def _until_stop(ids: list[int], behavior: list[float], stop_ids: frozenset[int]) -> Sample:
    length = next((place + 1 for place, token in enumerate(ids) if token in stop_ids), None)
    return Sample(ids[:length], behavior[:length], finished=length is not None)
