"""One answer, piece by piece, as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event, Thread
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import DIVERGED


class Told(StoppingCriteria):
    """Stops where it is told to."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(
        self, input_ids: Int[Tensor, "N L"], scores: Float[Tensor, "N V"], **kwargs: Any
    ) -> Bool[Tensor, "N"]:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def stream(policy: Policy, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
    """The answer to a prompt in pieces of text, special tokens left out; ``max_tokens`` is cut to the model's window.

    The model writes in a thread of its own, which ends with the iterator. Draws from torch's global generator. Raises
    UserError where the prompt fills the window, and whatever the model raises.
    """
    room = policy.window - len(prompt)
    require(room > 0, f"the conversation has {len(prompt)} tokens, the model's window {policy.window}")
    streamer = TextIteratorStreamer(policy.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop, raised = Event(), list[BaseException]()

    def write() -> None:
        try:
            answer(policy, prompt, sampling, min(room, sampling.max_tokens), streamer, Told(stop))
        except BaseException as problem:
            raised.append(problem)
            streamer.end()

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        stop.set()
        thread.join()
    if raised and "probability tensor" in str(raised[0]):
        raise UserError(f"{policy.name}: {DIVERGED}") from None
    if raised:
        raise raised[0]


@torch.no_grad()
def answer(
    policy: Policy,
    prompt: Sequence[int],
    sampling: Sampling,
    most: int,
    streamer: TextIteratorStreamer,
    told: Told,
) -> None:
    model, renderer = bare(policy.model), policy.renderer
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    meaningless = list(range(renderer.vocabulary, model.get_output_embeddings().weight.shape[0]))
    plain = GenerationConfig(
        max_new_tokens=most,
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=renderer.pad_id,
        suppress_tokens=meaningless or None,
        **({"do_sample": True, **drawn} if sampling.temperature > 0 else {"do_sample": False}),
    )
    stored, model.generation_config = model.generation_config, plain
    ids = torch.tensor([list(prompt)], device=model.device)
    generate: Callable[..., Any] = model.generate  # type: ignore[assignment]
    try:
        with policy.arithmetic():
            generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=plain, streamer=streamer,
                stopping_criteria=StoppingCriteriaList([told]),
            )  # fmt: skip
    finally:
        model.generation_config = stored
