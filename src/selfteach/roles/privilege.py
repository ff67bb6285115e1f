"""Privileges of Many Faces: one text for all examples, a solution full of gaps, and what stands in a closed thought."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from selfteach.roles.private import Field, InSystem
from selfteach.roles.view import (
    Answer,
    Messages,
    Plain,
    Solution,
    View,
    begun,
    filled,
    in_system,
    revealed,
    reworded,
)
from selfteach.task.trajectory import Trajectory

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Shared:
    """One ``text`` for all examples (a rule, a constitution, "be concise"): at the beginning of the system prompt, or
    before the question. The text stands as it is, braces included. Raises ValueError without one."""

    text: str
    place: Literal["system", "user"] = "system"
    name: ClassVar[str] = "shared"
    fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("text is empty: there is nothing to show")

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages:
        example = trajectory.example
        if self.place == "system":
            return in_system(example, self.text)
        return reworded(example, f"{self.text}\n\n{example.problem}")


@dataclass(frozen=True)
class Masked:
    """The problem with its solution, each word (between blanks) replaced by ``gap`` with probability ``share``.

    Which words is a function of the example's key alone: the same gaps every time. The task's wording "masked" is taken
    instead of the template. None if the solution is missing. Raises ValueError for a share outside [0, 1].
    """

    share: float = 0.5
    gap: str = "___"
    template: str = (
        "{problem}\n\n"
        "A reference solution with gaps follows between the markers.\n"
        "--- reference solution ---\n{masked}\n--- end of reference solution ---\n\n"
        "Let it guide you without mentioning it, and solve the problem yourself, step by step."
    )
    name: ClassVar[str] = "masked"
    fields: ClassVar[tuple[str, ...]] = ("solution",)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        example = trajectory.example
        solution = example.private.get("solution")
        if not solution:
            return None
        chance = Random(f"masked {example.key}")
        masked = _WORD.sub(lambda word: self.gap if chance.random() < self.share else word[0], solution)
        return revealed(example, wording.get(self.name, self.template), masked=masked)


@dataclass(frozen=True)
class Thought:
    """The bare question; the turn begins with a closed thought that holds a private ``field`` (hidden_think).

    The task's wording "thought-FIELD" is taken instead of the template. None if the example lacks the field.
    """

    field: str = "answer"
    template: str = "<think>\n{{{field}}}\n</think>\n\n"

    @property
    def name(self) -> str:
        return f"thought-{self.field}"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        template = wording.get(self.name, self.template.format(field=self.field))
        text = filled(trajectory.example, template)
        return None if text is None else begun(trajectory.example, text)


Privilege = Literal[
    "rule", "constitution", "solution", "answer", "masked", "hidden-think", "hidden-think-full", "none"
]


def privilege(
    name: Privilege, place: Literal["system", "user"] = "system", constitution: str = "", gaps: float = 0.5
) -> View:
    """The view of a privilege that Many Faces names: what all examples share (``rule``, a private field;
    ``constitution``, a text) or what belongs to one. Raises ValueError where the view does."""
    if name == "constitution":
        return Shared(constitution, place)
    shown: Mapping[str, View] = {
        "rule": InSystem("rule") if place == "system" else Field("rule"),
        "solution": Solution(),
        "answer": Answer(),
        "masked": Masked(gaps),
        "hidden-think": Thought("answer"),
        "hidden-think-full": Thought("solution"),
        "none": Plain(),
    }
    return shown[name]
