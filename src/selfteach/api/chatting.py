"""``selfteach.chat``: a conversation with a model, a run or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.evaluating import device_of, drafted
from selfteach.api.resolve import in_memory
from selfteach.api.result import Result
from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, policy_of
from selfteach.policy.streaming import stream
from selfteach.task.example import Message
from selfteach.training.text.saved import load_saved

LONGEST = 1024
"""Tokens of an answer, at most; a model's window may end it earlier."""


@dataclass
class Chat:
    """A conversation: ``chat("Hello")`` is the model's answer, ``chat.stream("Hello")`` the same in pieces, and
    ``messages`` what was said so far. An answer that is broken off counts as far as it came."""

    policy: Policy = field(repr=False)
    sampling: Sampling
    system: str | None = None
    thinking: bool | None = None
    messages: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clear()

    def __call__(self, text: str) -> str:
        """Say something, and return the whole answer."""
        return "".join(self.stream(text))

    def stream(self, text: str) -> Iterator[str]:
        """Say something, and get the answer piece by piece. UserError where the conversation fills the model's window;
        what was said is taken back then."""
        said: list[Message] = [*self.messages, {"role": "user", "content": encodable(text)}]
        prompt = self.policy.renderer.prompt_ids(said, self.thinking)
        if len(prompt) >= self.policy.window:
            raise UserError(
                f"the conversation has {len(prompt)} tokens and fills the model's window of {self.policy.window}: "
                "begin a new one (/clear)"
            )
        written = ""
        try:
            for piece in stream(self.policy, prompt, self.sampling):
                written += piece
                yield piece
        finally:
            self.messages = [*said, {"role": "assistant", "content": written}]

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        self.messages = [] if self.system is None else [{"role": "system", "content": encodable(self.system)}]


def encodable(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def chat(
    model: str | Path | PreTrainedModel | Result,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    thinking: bool | None = None,
    chat_template: str | None = None,
    base: str | Path | None = None,
    seed: int | None = None,
    device: Literal["auto", "cpu"] = "auto",
) -> Chat:
    """A conversation with a model: ``answer = selfteach.chat("runs/x")("What is 2 + 3?")``.

    ``model`` and ``base`` are as in ``selfteach.evaluate``; a model in memory is used as it is, with its ``tokenizer``.
    What is left out is as the run was measured (``system``: the system prompt it was trained under), else temperature
    1 and answers of up to 1024 tokens. ``seed``: of what is drawn (None: another conversation every time). Raises
    UserError for whatever cannot be meant.
    """
    model = model.folder if isinstance(model, Result) else model
    memory = isinstance(model, PreTrainedModel)
    draft = drafted(None if isinstance(model, PreTrainedModel) else model)
    loading = replace(draft.loading, chat_template=chat_template or draft.loading.chat_template)
    loading = loading if device == "auto" else replace(loading, device=device)
    how = draft.how
    sampling = Sampling(
        (how.max_tokens or LONGEST) if max_tokens is None else max_tokens,
        how.temperature if temperature is None else temperature,
        how.top_p if top_p is None else top_p,
        how.top_k if top_k is None else top_k,
    )
    if isinstance(model, PreTrainedModel):
        name, tokenizer = in_memory(model, tokenizer)
        policy = policy_of(
            model, tokenizer, name=name, chat_template=loading.chat_template, device=model.device
        )
    elif draft.saved is not None:
        policy = load_saved(
            draft.saved, loading, base=None if base is None else str(base), device=device_of(loading)
        )
    torch.seed() if seed is None else torch.manual_seed(seed)
    system = system if system is not None or memory else draft.options.system_prompt
    return Chat(policy, sampling, system or None, how.thinking if thinking is None else thinking)
