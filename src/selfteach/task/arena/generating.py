"""What a model of the arena writes behind conversations, without the house's sampler: for measuring it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from selfteach.task.arena.game import Game
from selfteach.task.environment import Environment, Reply
from selfteach.task.example import Example, Message

MAX_NEW_TOKENS = 48
TURN_TOKENS = 8
"""Longest turn of an episode; no action is as long."""


@torch.no_grad()
def continued(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    given: Sequence[str] | None = None,
    sample: bool = True,
    longest: int = MAX_NEW_TOKENS,
) -> list[str]:
    """The next turn of each conversation: sampled at temperature 1, nothing cut off, or greedy.

    ``given``: how that turn already begins, one text a conversation; not repeated in what comes back.
    """
    prompts = cast(
        list[str],
        tokenizer.apply_chat_template(
            [
                [{"role": one["role"], "content": one["content"]} for one in conversation]
                for conversation in conversations
            ],
            tokenize=False,
            add_generation_prompt=True,
        ),
    )
    texts = [prompt + begun for prompt, begun in zip(prompts, given or [""] * len(prompts), strict=True)]
    batch = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    ids = model.generate(**inputs, do_sample=sample, max_new_tokens=longest, **sampling)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


class Played:
    """One episode as it goes on: what the model reads, and what was earned. ``opening``: turns played first."""

    def __init__(self, world: Game, example: Example, view: str, opening: Sequence[str]) -> None:
        self.environment: Environment = world.environment()
        self.environment.reset(example)
        self.conversation = [Message(role="user", content=world.question(example, view))]
        self.turns, self.reward, self.done = 0, 0.0, False
        for words in opening:
            self.step(words)

    def step(self, words: str) -> Reply:
        reply = self.environment.step(Message(role="assistant", content=words))
        self.conversation += [Message(role="assistant", content=words), *reply.messages]
        self.turns, self.reward, self.done = self.turns + 1, self.reward + reply.reward, reply.done
        return reply


def earned(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    world: Game,
    view: str,
    begun: Sequence[tuple[Example, Sequence[str]]],
    sample: bool = True,
) -> list[float]:
    """The reward of an episode of each example behind its given turns, the model reading ``view`` of the problem."""
    episodes = [Played(world, example, view, opening) for example, opening in begun]
    while going := [one for one in episodes if not one.done and one.turns < world.max_turns]:
        turns = continued(model, tokenizer, [one.conversation for one in going], None, sample, TURN_TOKENS)
        for episode, words in zip(going, turns, strict=True):
            episode.step(words)
    return [one.reward for one in episodes]
