"""A world of episodes made of pure functions: where one begins, and what an action makes of where it stands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selfteach.errors import UserError
from selfteach.task.arena.drawn import Drawn
from selfteach.task.environment import Reply
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict

Begin = Callable[[str], Any]
"""Problem → the state that its episode begins in."""
Act = Callable[[Any, str], tuple[Any, Reply]]
"""State and what the policy wrote → the next state, and what is answered."""


class GameEnvironment:
    """One episode at a time (``selfteach.task.environment.Environment``); it draws no random numbers."""

    def __init__(self, begin: Begin, act: Act) -> None:
        self._begin, self._act = begin, act
        self._state: Any = None

    def reset(self, example: Example) -> Sequence[Message]:
        self._state = self._begin(whole(example))
        return example.prompt

    def step(self, message: Message) -> Reply:
        self._state, reply = self._act(self._state, message["content"].strip())
        return reply


@dataclass(frozen=True)
class Game(Drawn):
    """One world of the arena whose problems are episodes, under a seed.

    ``pose`` draws a problem. ``tell`` gives its private fields, of which ``solution`` (the JSON list of an expert's
    actions) is always there; UserError for what is no problem of the world. ``kind`` is an example's tag. ``begin`` and
    ``act`` are the rules. ``blunder``: a first action that no expert takes, after which the episode can still be won
    (None: the problem, or every one, has none). ``opening``: what the prompt shows of a problem (None: all); then
    ``tell`` gives all of it as ``whole``. The held-out examples are the same for every seed. ``verdicts`` stays empty:
    the environment grades.
    """

    name: str
    pose: Callable[[Random], str]
    tell: Callable[[str], Mapping[str, str]]
    kind: Callable[[str], str]
    begin: Begin
    act: Act
    blunder: Callable[[str], str | None] | None
    wording: Mapping[str, str]
    max_turns: int
    opening: Callable[[str], str] | None = None
    seed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)

    def example(self, problem: str) -> Example:
        """The example that asks ``problem``; raises ``UserError`` if this world has no such problem."""
        private = self.tell(problem)
        shown = problem if self.opening is None else self.opening(problem)
        prompt = (Message(role="user", content=shown),)
        return Example(f"{self.name}:{problem}", prompt, private, self.kind(problem))

    def environment(self) -> GameEnvironment:
        """A new one, for one episode at a time."""
        return GameEnvironment(self.begin, self.act)

    def grade(self, example: Example, answer: str) -> Grade:
        """Always a UserError: a text is no episode."""
        raise UserError(
            f"world {self.name!r} has episodes, which its environment grades turn by turn: play one"
        )


def whole(example: Example) -> str:
    """The problem of an example, whatever its prompt shows of it."""
    return example.private.get("whole", example.problem)


def as_solution(turns: Sequence[str]) -> str:
    """An expert's turns as the private field has them: a JSON list, without spaces."""
    return json.dumps(list(turns), separators=(",", ":"))


def said(words: str) -> tuple[Message, ...]:
    """What an environment says, as the messages of a reply."""
    return (Message(role="user", content=words),)


def played(game: Game, problem: str, turns: Sequence[str]) -> list[Reply]:
    """The replies to these turns, up to the one that ends the episode."""
    state, replies = game.begin(problem), list[Reply]()
    for words in turns:
        state, reply = game.act(state, words)
        replies.append(reply)
        if reply.done:
            break
    return replies
