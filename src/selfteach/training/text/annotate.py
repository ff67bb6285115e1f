"""From what an annotator marked in a text to marks on its tokens (TRACE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from selfteach.errors import UserError
from selfteach.policy.renderer import Renderer
from selfteach.task.annotation import Annotation, Span
from selfteach.task.example import Example, Task
from selfteach.task.trajectory import Trajectory


@runtime_checkable
class Annotator(Protocol):
    """A task that can say where an answer is decided. None: nothing to mark in this one."""

    def annotate(self, example: Example, answer: str) -> Annotation | None: ...


def require_annotator(task: Task) -> Annotator:
    """The task as an annotator. UserError if it is none."""
    if not isinstance(task, Annotator):
        raise UserError(
            f"task {task.name} has no annotator to mark key and error spans, which this recipe needs; "
            "the arena's tutor and trail have one, or give your task a method annotate(example, answer)"
        )
    return task


def annotated(task: Task, chat: Renderer, rollouts: Sequence[Trajectory]) -> list[Trajectory]:
    """Each rollout with the marks "key" and "error" on its tokens. UserError if the task has no annotator."""
    annotator = require_annotator(task)
    result = []
    for one in rollouts:
        note = annotator.annotate(one.example.asked, one.text)
        spans = {"key": note.key if note else (), "error": note.error if note else ()}
        marks = {name: token_mask(chat, one.ids, found) for name, found in spans.items()}
        result.append(replace(one, annotation=note, marks={**one.marks, **marks}))
    return result


def token_mask(chat: Renderer, ids: list[int], spans: Sequence[Span]) -> list[bool]:
    """[T] True where a token's text touches one of the character spans of the whole text."""
    mask = [False] * len(ids)
    for begin, end in spans:
        for t in range(token_at(chat, ids, begin), token_at(chat, ids, end - 1) + 1):
            if t < len(ids):
                mask[t] = True
    return mask


def token_at(chat: Renderer, ids: list[int], character: int) -> int:
    """The token that brings the text past ``character``, by bisection: a text's tokens only ever add to it."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(chat.text(ids[: middle + 1])) > character:
            high = middle
        else:
            low = middle + 1
    return low
