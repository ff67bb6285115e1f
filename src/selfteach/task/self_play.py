"""What a task offers so that one policy may pose its problems and another solve them, without data (self-play)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from selfteach.errors import UserError
from selfteach.importing import users_call
from selfteach.task.example import Example, Message, Task


class SelfPlay(Protocol):
    """A task whose problems a policy can write: the examiner.

    ``hops``: the kinds of problems that it may be asked for, each a number of steps from answer to question (1 at
    least). ``examiner(hops)`` is the conversation that asks for a problem of one kind. ``posed(text, hops)`` reads what
    the examiner wrote: the problem as an Example, whose private field ``solution`` is the path on which the question
    was made and ``answer`` what it was made of; None where the text is malformed, contradicts itself, is of another
    kind, or poses a problem that is kept for evaluation. The text is a model's: trust nothing of it. The same text
    gives the same example.
    """

    hops: Sequence[int]

    def examiner(self, hops: int) -> Sequence[Message]: ...

    def posed(self, text: str, hops: int) -> Example | None: ...


METHODS = ("examiner", "posed")


def lacks_self_play(task: Task) -> str | None:
    """What a task lacks for self-play, in a few words; None where it has all."""
    lacking = [f"{name}()" for name in METHODS if not callable(getattr(task, name, None))]
    hops: Any = getattr(task, "hops", None)
    if not isinstance(hops, Sequence) or not hops or not all(type(one) is int and one > 0 for one in hops):
        lacking.insert(0, "hops (whole numbers from 1)")
    return " and no ".join(lacking) or None


def hops_of(task: Task) -> Sequence[int]:
    """The kinds of problems that an examiner may be asked for."""
    own: Any = task
    kinds: Sequence[int] = own.hops
    return kinds


def asks_for(task: Task, hops: int) -> Example:
    """The example that asks the examiner for a problem of so many hops; it has no private field."""
    own: Any = task
    said = users_call(f"task {task.name}: examiner failed", own.examiner, hops)
    prompt = tuple(Message(role=one["role"], content=one["content"]) for one in said)
    return Example(f"{task.name}: {hops} hops", prompt)


def posed_by(task: Task, text: str, hops: int) -> Example | None:
    """The problem that a text poses, if it does. UserError where the task's own code raises or gives something else,
    or leaves out what a teacher is to read."""
    own: Any = task
    found = users_call(f"task {task.name}: posed failed", own.posed, text, hops)
    if found is None:
        return None
    if not isinstance(found, Example):
        raise UserError(f"task {task.name}: posed gave {type(found).__name__}: give an Example, or None")
    for name in ("solution", "answer"):
        if not found.private.get(name):
            raise UserError(f"task {task.name}: posed gave an example without private field {name!r}")
    return found
