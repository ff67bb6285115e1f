"""What of an environment runs in a worker process: the task, made of its name as the run makes it, and its episodes.

Each function gives JSON: ``{"value"}``; ``{"raised"}``, what the environment raised; ``{"fault"}``, a UserError's line;
``{"exhausted"}`` where the memory is used up; ``{"lost"}`` where this process has not begun the episode.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.task.address_space import limited, used
from selfteach.task.environment import Environment, checked, environment_of, opening_in
from selfteach.task.example import Example, Message
from selfteach.task.options import TaskOptions

_episodes: dict[int, Environment] = {}


def warm_up() -> None:
    """The modules are imported by then; the task comes with the first ``load``."""


@cache
def load(source: str, memory: int) -> dict[str, Any]:
    """Make the task of ``source``: its name, seed and options as JSON. Of the memory that it has then, a process that
    plays may use ``memory`` bytes more."""
    try:
        make_of(source)
    except UserError as problem:
        return {"fault": str(problem)}
    room_beside(memory)
    return {"value": None}


@cache
def make_of(source: str) -> Callable[[], Environment]:
    from selfteach.task.rows import make_task  # which makes tasks whose environments run here

    said = json.loads(source)
    task = make_task(said["task"], seed=said["seed"], options=TaskOptions(**said["options"]))
    make = environment_of(task)
    if make is None:
        raise UserError(f"task {task.name} is no environment")
    return make


@cache
def room_beside(memory: int) -> int:
    """Bytes of address space that an environment's calls may have in all, from the first question on."""
    return min(used() + memory, sys.maxsize)


def reset(source: str, memory: int, number: int, example: Mapping[str, Any]) -> dict[str, Any]:
    """The opening messages of the episode of this number, of an environment of its own."""

    def begun() -> Any:
        if number not in _episodes:
            _episodes[number] = make_of(source)()
        return opening_in(_episodes[number].reset(Example(**example)))

    return answered(begun, memory)


def step(memory: int, number: int, message: Message) -> dict[str, Any]:
    """The fields of the Reply to the assistant's message."""
    if number not in _episodes:
        return {"lost": True}

    def replied() -> Any:
        reply = checked(_episodes[number].step(message))
        numbers = {name: float(value) for name, value in reply.numbers.items()}
        said = {"messages": reply.messages, "reward": float(reply.reward), "numbers": numbers}
        return {**said, "done": reply.done, "failed": reply.failed}

    return answered(replied, memory)


def close(number: int) -> None:
    """Let the episode go."""
    environment = _episodes.pop(number, None)
    with suppress(Exception):
        getattr(environment, "close", lambda: None)()


def answered(what: Callable[[], Any], memory: int) -> dict[str, Any]:
    try:
        with limited(room_beside(memory)):
            return {"value": what()}
    except UserError as problem:
        return {"fault": str(problem)}
    except (Exception, SystemExit) as error:
        return {"exhausted": True} if no_memory(error) else {"raised": with_type(error)}


def no_memory(error: BaseException) -> bool:
    """Whether an error is of memory that is used up. That of a thread or a process that cannot start says so too: each
    needs some, which a neighbor may have."""
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return refused or isinstance(error, MemoryError) or "can't start new thread" in with_type(error)
