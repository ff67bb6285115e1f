"""Views of what stands in the example's private fields: any one of them, or the first part of the solution."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfteach.roles.view import Answer, Messages, Solution, filled, in_system, revealed
from selfteach.task.answer import last_boxed
from selfteach.task.trajectory import Trajectory

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_LIST_ITEM = re.compile(r"\n(?=\s*(?:\d+[.)]|[-*•])\s)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

BEGINNING_ONLY = (
    "{problem}\n\n"
    "The beginning of a reference solution follows between the markers; it is incomplete.\n"
    "--- beginning of a reference solution ---\n{partial}\n--- the rest is left out ---\n\n"
    "Let it guide you without mentioning it, and solve the problem yourself, step by step."
)
"""What ``Partial`` says where the final answer is to stay hidden (AVSD)."""


@dataclass(frozen=True)
class Field:
    """The problem with one private field of any name, under the task's wording of that name if it has one."""

    field: str
    template: str = (
        "{{problem}}\n\nFor your eyes only, here is a {field}: {{{field}}}\n\n"
        "Let it guide you without mentioning it, and solve the problem yourself, step by step."
    )

    @property
    def name(self) -> str:
        return self.field

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        return revealed(trajectory.example, wording.get(self.field, self.template.format(field=self.field)))


@dataclass(frozen=True)
class InSystem:
    """A private field at the beginning of the system prompt, under the task's wording "system-FIELD" if it has one
    (π-Distill). None if the example lacks it."""

    field: str
    template: str = (
        "What follows is for your eyes only: use it, and never mention it.\n"
        "--- privileged information ---\n{{{field}}}\n--- end of privileged information ---"
    )

    @property
    def name(self) -> str:
        return f"system-{self.field}"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        text = filled(trajectory.example, wording.get(self.name, self.template.format(field=self.field)))
        return None if text is None else in_system(trajectory.example, text)


@dataclass(frozen=True)
class Partial:
    """The problem with the first ``share`` of the reference solution, and the final answer (ATESD).

    Of m segments (``segments``) the first ⌊share · m⌋ are shown (``rounding`` "up": ⌈share · m⌉, never all). With all
    of them it is the view ``Solution``, byte for byte; with none the view ``Answer``. A ``template``, or a task's
    wording "partial", without {answer} keeps the answer to itself: then what is shown loses its ``\\boxed{…}`` too, and
    with none the problem stands as the template words it (AVSD). None if a field is missing.
    """

    share: float = 0.5
    rounding: str = "down"
    template: str = (
        "{problem}\n\n"
        "The beginning of a reference solution follows between the markers; it is incomplete.\n"
        "--- beginning of a reference solution ---\n{partial}\n--- the rest is left out ---\n"
        "The final answer is {answer}.\n\n"
        "Let it guide you without mentioning it, and solve the problem yourself, step by step."
    )
    name: ClassVar[str] = "partial"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}")
        if self.rounding not in ("down", "up"):
            raise ValueError(f"rounding must be down or up, got {self.rounding!r}")

    @property
    def fields(self) -> tuple[str, ...]:
        return ("solution", "answer") if "{answer}" in self.template else ("solution",)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        solution = trajectory.example.private.get("solution")
        if not solution:
            return None
        parts = segments(solution)
        kept = self.count(len(parts))
        if kept == len(parts):
            return Solution()(trajectory, group, wording)
        template, shown = wording.get(self.name, self.template), "".join(parts[:kept]).rstrip()
        if "{answer}" not in template:
            shown = without_boxes(shown)
        elif not kept:
            return Answer()(trajectory, group, wording)
        return revealed(trajectory.example, template, partial=shown)

    def count(self, m: int) -> int:
        """How many of ``m`` segments are shown."""
        # A share such as 0.29 of 100 must not lose a segment to the last bit of a float product.
        exact = self.share * m
        if self.rounding == "down":
            return math.floor(exact + 1e-9)
        return min(math.ceil(exact - 1e-9), m - 1)


def segments(solution: str) -> list[str]:
    """A solution cut into steps that join to it again: at blank lines, else list items, else sentences, else
    characters (AVSD)."""
    for boundary in (_BLANK_LINES, _LIST_ITEM, _SENTENCE_END):
        cuts = [0, *(found.end() for found in boundary.finditer(solution)), len(solution)]
        parts = [solution[a:b] for a, b in itertools.pairwise(cuts) if a < b]
        if len(parts) > 1:
            return parts
    return list(solution)


def without_boxes(text: str) -> str:
    """A text whose every ``\\boxed{…}`` has become an ellipsis."""
    while (content := last_boxed(text)) is not None:
        text = re.sub(rf"\\boxed\s*\{{{re.escape(content)}\}}", "…", text)
    return text


def listed(text: str) -> list[str]:
    """The entries of a private field that is a list, each once: of JSON as rows of data give it, else its lines."""
    entries: object = None
    with contextlib.suppress(ValueError):
        entries = json.loads(text)
    found = entries if isinstance(entries, list) else text.splitlines()
    return list(dict.fromkeys(word for one in found if (word := str(one).strip())))
