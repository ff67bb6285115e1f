"""An environment: what a policy talks to for several turns, as gymnasium people expect it.

A task whose problems are episodes has ``environment()``, which makes a new one, and perhaps ``max_turns``. Everything
else of it is as in any task: ``train`` and ``held_out`` give examples, whose ``prompt`` is what ``reset`` says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from selfteach.errors import UserError
from selfteach.task.example import Example, Message, Task


@dataclass(frozen=True)
class Reply:
    """What an environment makes of a turn: its ``messages``, the turn's ``reward``, whether the episode is ``done``.

    ``failed``: the turn was no legal action (a malformed call, a tool that raised): it is counted. ``numbers``: what
    else was measured of the turn, by name; of an episode their sums are shown (``grade/NAME``).
    """

    messages: Sequence[Message] = ()
    reward: float = 0.0
    done: bool = False
    failed: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)


class Environment(Protocol):
    """One episode at a time.

    ``reset`` begins the episode of an example and gives its opening conversation, the example's prompt. ``step`` takes
    the assistant's message and answers it. Both must follow from the example and the messages alone (draw random
    numbers from the example's key): an episode may be played again up to a turn. An environment that has ``close`` is
    closed when its episode is over.
    """

    def reset(self, example: Example) -> Sequence[Message]: ...

    def step(self, message: Message) -> Reply: ...


class Interactive(Task, Protocol):
    """A task whose problems are episodes. ``max_turns``, which it may lack, is the longest that it allows."""

    def environment(self) -> Environment: ...


def environment_of(task: Task) -> Callable[[], Environment] | None:
    """What makes the task's environments; None where one answer is all that is asked for."""
    return getattr(task, "environment", None)


def turns_of(example: Example, field: str) -> list[str]:
    """An expert's turns: the JSON list of texts in a private field. UserError where it is missing or something else."""
    text = example.private.get(field)
    if not text:
        known = ", ".join(sorted(example.private)) or "no private field"
        raise UserError(f"example {example.key} has no {field!r} to imitate; known: {known}")
    try:
        turns = json.loads(text)
    except json.JSONDecodeError:
        turns = None
    if not isinstance(turns, list) or not all(isinstance(one, str) for one in turns):
        raise UserError(
            f"example {example.key}: {field!r} must be a JSON list of texts, an expert's turns in an environment"
        )
    return turns


def turns_allowed(task: Task, asked: int) -> int:
    """The longest episode in turns: as many as are asked for, at most what the task allows."""
    return min(asked, int(getattr(task, "max_turns", asked)))
