"""An environment: what a policy talks to for several turns, as gymnasium people expect it.

A task whose problems are episodes has ``environment()``, which makes a new one, and perhaps ``max_turns``. Everything
else of it is as in any task: ``train`` and ``held_out`` give examples, whose ``prompt`` is what ``reset`` says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, NoReturn, Protocol, TypeGuard

from selfteach.checks import require
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


BUILT_IN = frozenset(
    {"success", "turns", "turns_cut", "out_of_turns", "out_of_room", "environment_failed", "illegal"}
)
"""Numbers of an episode that are counted whatever the environment counts."""
LARGEST = 1e6
"""A reward beyond it is taken for a mistake."""
LONGEST = 10_000_000
"""Characters that an environment may say at once: more would stop the run for minutes, and no window holds them."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


def refuse_grading(name: str) -> NoReturn:
    """What ``grade`` of a task does whose environment alone rewards. UserError."""
    raise UserError(f"task {name} is an environment, which rewards each turn itself: play its episodes")


def checked(reply: object) -> Reply:
    """A Reply as it must be, its messages a tuple. ValueError for anything else."""
    if not isinstance(reply, Reply):
        raise ValueError(f"step gave {type(reply).__name__}, not a selfteach.task.environment.Reply")
    if not is_number(reply.reward) or not abs(reply.reward) <= LARGEST:
        raise ValueError(f"step gave a reward of {reply.reward!r}: give a number within ±{LARGEST:g}")
    for name in ("done", "failed"):
        if not isinstance(getattr(reply, name), bool):
            raise ValueError(f"step gave {name} {getattr(reply, name)!r}: give True or False")
    said = messages_in(reply.messages)
    if not reply.done and not said:
        raise ValueError("step gave no message, but the episode is not done")
    if not isinstance(reply.numbers, Mapping):
        raise ValueError(f"step gave numbers {type(reply.numbers).__name__}: give a dict of numbers by name")
    for name, value in reply.numbers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in BUILT_IN:
            raise ValueError(f"step gave a number of the name {name!r}, which is no name or counted already")
        if not is_number(value) or not math.isfinite(value):
            raise ValueError(f"step gave {name} {value!r}, which is no finite number")
    return replace(reply, messages=said)


def opening_in(given: object) -> tuple[Message, ...]:
    """What ``reset`` gives. Earlier turns of an assistant may stand in it (examples of how it is done), not at its end.
    ValueError where it is something else."""
    found = messages_in(given, opening=True)
    if found and found[-1]["role"] == "assistant":
        raise ValueError("the opening ends with a message of the assistant: it is the policy's turn then")
    return found


def messages_in(given: object, opening: bool = False) -> tuple[Message, ...]:
    """Messages of an environment. ValueError where they are something else, or speak as the assistant behind the
    ``opening``."""
    if isinstance(given, Mapping | str):
        raise ValueError(f"messages is one {type(given).__name__}: give a list of messages")
    try:
        found: tuple[Any, ...] = tuple(given)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"messages is {type(given).__name__}: give a list of messages") from None
    for one in found:
        if not isinstance(one, Mapping) or not all(
            isinstance(one.get(key), str) for key in ("role", "content")
        ):
            raise ValueError("a message is a dict with a role and a content, both texts")
        if one["role"] == "assistant" and not opening:
            raise ValueError("a message has the role assistant: that is who it answers")
    length = sum(len(one["content"]) for one in found)
    if length > LONGEST:
        raise ValueError(f"messages have {length:,} characters: say {LONGEST:,} at most")
    try:
        "".join(one["content"] for one in found).encode()
    except UnicodeEncodeError:
        raise ValueError("a message has half a surrogate pair, which is no text") from None
    return tuple(Message(role=one["role"], content=one["content"]) for one in found)


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


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
    except (ValueError, TypeError, RecursionError):
        turns = None
    if not isinstance(turns, list) or not turns or not all(isinstance(one, str) for one in turns):
        raise UserError(
            f"example {example.key}: {field!r} must be a JSON list of texts, an expert's turns (json.dumps)"
        )
    return turns


def turns_allowed(task: Task, asked: int) -> int:
    """The longest episode in turns: as many as are asked for, at most what the task allows. UserError where that is no
    number of turns."""
    most = limit_of(task)
    return asked if most is None else min(asked, most)


def limit_of(task: Task) -> int | None:
    """The task's own limit of turns; None without one. UserError where it is no whole number from 1."""
    most = getattr(task, "max_turns", None)
    require(
        most is None or (isinstance(most, int) and not isinstance(most, bool) and most >= 1),
        f"task {task.name}: max_turns is {most!r}: it must be a whole number, 1 at least",
    )
    return most
