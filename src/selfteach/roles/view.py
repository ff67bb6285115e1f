"""What a role is shown: (trajectory, its group) → a conversation that ends before the scored tokens, or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from selfteach.errors import UserError
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory

Messages = tuple[Message, ...]


@runtime_checkable
class View(Protocol):
    """A pure function from a trajectory and its group (those of the same prompt) to what the role reads.

    ``name`` picks the task's own wording where it has one (``Task.wording``). ``fields`` are the private fields
    it reveals: the preflight alters them to see that the privilege reaches the teacher. None = nothing to show.
    """

    @property
    def name(self) -> str: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None: ...


@dataclass(frozen=True)
class Plain:
    """What the student itself saw: no privilege. A teacher with other weights, or the GRPO reference."""

    name: ClassVar[str] = "plain"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages:
        return trajectory.example.prompt


@dataclass(frozen=True)
class Solution:
    """The problem with its worked reference solution (OPSD: the teacher's prompt of OPSD).

    ``template`` holds {problem} and private fields; it replaces the last user message.
    """

    template: str = (
        "{problem}\n\n"
        "A reference solution follows between the markers.\n"
        "--- reference solution ---\n{solution}\n--- end of reference solution ---\n\n"
        "Make sure you understand why it is right. Then solve the problem yourself, in your own words, step by "
        "step; do not copy or paraphrase the reference, and change course whenever you notice a mistake."
    )
    name: ClassVar[str] = "solution"

    @property
    def fields(self) -> tuple[str, ...]:
        return ("solution",)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        return revealed(trajectory.example, wording.get(self.name, self.template))


@dataclass(frozen=True)
class Answer:
    """The problem with its final answer only (Many Faces: instance-specific privilege in its barest form)."""

    template: str = (
        "{problem}\n\nThe correct final answer is {answer}. Work out for yourself, step by step, why; "
        "do not mention that you were told."
    )
    name: ClassVar[str] = "answer"

    @property
    def fields(self) -> tuple[str, ...]:
        return ("answer",)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        return revealed(trajectory.example, wording.get(self.name, self.template))


@dataclass(frozen=True)
class Prefix:
    """Turns that stand before every conversation: a system prompt, rules, worked examples (Many Faces: shared rule)."""

    turns: Messages
    name: ClassVar[str] = "prefix"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages:
        tools, rest = tools_apart(trajectory.example.prompt)
        return (*tools, *self.turns, *rest)


def revealed(example: Example, template: str, **more: str) -> Messages | None:
    """The example's conversation with its last user message reworded by ``template``.

    The template names {problem}, private fields, and what ``more`` gives (which may be empty). None if a private
    field that it names is missing or empty.
    """
    text = filled(example, template, **more)
    return None if text is None else reworded(example, text)


def reworded(example: Example, text: str) -> Messages:
    """The example's conversation with ``text`` in its last user message's stead. UserError if it has none."""
    last = max((i for i, m in enumerate(example.prompt) if m["role"] == "user"), default=None)
    if last is None:
        raise UserError(f"example {example.key} has no user message: a view needs one to reword")
    return (*example.prompt[:last], Message(role="user", content=text), *example.prompt[last + 1 :])


def filled(example: Example, template: str, **more: str) -> str | None:
    """``template`` with its {names} replaced, once: braces inside a problem or a solution stay as they are."""
    values = {"problem": example.problem, **example.private}
    names = set(re.findall(r"\{(\w+)\}", template))
    if any(not values.get(name) for name in names - set(more)):
        return None
    return re.sub(r"\{(\w+)\}", lambda match: {**values, **more}[match.group(1)], template)


def in_system(example: Example, text: str) -> Messages:
    """The example's conversation with ``text`` at the beginning of its system prompt."""
    tools, said = tools_apart(example.prompt)
    if not said or said[0]["role"] != "system":
        return (*tools, Message(role="system", content=text), *said)
    return (*tools, Message(role="system", content=f"{text}\n\n{said[0]['content']}"), *said[1:])


def tools_apart(prompt: Messages) -> tuple[Messages, Messages]:
    """(the message that announces tools, which stays the first of a conversation, if there is one; the others)."""
    first = int(bool(prompt) and prompt[0]["role"] == "tools")
    return prompt[:first], prompt[first:]


def begun(example: Example, reply: str) -> Messages:
    """The example's conversation with ``reply`` put into the assistant's mouth: what is scored goes on from there."""
    return (*example.prompt, Message(role="assistant", content=reply))
