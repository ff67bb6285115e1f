"""One answer, piece by piece, as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread

from jaxtyping import Float, Int
from torch import Tensor
from transformers import TextIteratorStreamer

from selfteach.checks import require
from selfteach.errors import NotFinite, UserError
from selfteach.policy.draws import Draws, Sampling, keys_from_torch
from selfteach.policy.loading import Policy, bare
from selfteach.policy.sampler import DIVERGED, EMPTY, in_evaluation, write


class Stopped(Exception):
    """Nobody listens any more."""


@dataclass
class Streamed(Draws):
    """Draws the tokens of one row, and hands each on as it is drawn, until ``stop`` is set."""

    streamer: TextIteratorStreamer | None = None
    stop: Event | None = None

    def __call__(
        self, logits: Float[Tensor, "N V"], rows: Int[Tensor, "N"], step: int
    ) -> tuple[Int[Tensor, "N"], Float[Tensor, "N"]]:
        token, log_prob = super().__call__(logits, rows, step)
        if log_prob.isnan().any():
            raise NotFinite(DIVERGED)
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        if self.streamer is not None:
            self.streamer.put(token.cpu())
        return token, log_prob


def stream(policy: Policy, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
    """The answer to a prompt in pieces of text, special tokens left out; ``max_tokens`` is cut to the model's window.

    The model writes in a thread of its own, which ends with the iterator. Draws from torch's global generator. Raises
    UserError where the prompt fills the window, and whatever the model raises.
    """
    room = policy.window - len(prompt)
    require(room > 0, f"the conversation has {len(prompt)} tokens, the model's window {policy.window}")
    require(len(prompt) > 0, EMPTY)
    streamer = TextIteratorStreamer(policy.tokenizer, skip_special_tokens=True)
    stop, raised = Event(), list[BaseException]()
    sampling = replace(sampling, max_tokens=min(room, sampling.max_tokens))
    keys = keys_from_torch(1)
    draws = Streamed(sampling, keys, policy.model.device, streamer=streamer, stop=stop)

    def answer() -> None:
        try:
            with in_evaluation(bare(policy.model)):
                write(policy, [list(prompt)], draws, lambda _: None)
        except Stopped:
            pass
        except BaseException as problem:
            raised.append(problem)
        finally:
            streamer.end()

    thread = Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        stop.set()
        thread.join()
    if raised and isinstance(raised[0], NotFinite):
        raise UserError(f"{policy.name}: {DIVERGED}") from None
    if raised:
        raise raised[0]
