"""A segment of a trajectory: consecutive tokens of one author."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfteach.task.example import Message

UNKNOWN = math.nan
"""The behavior log-prob of a token that nobody is known to have sampled."""
STUDENT, DATA, EDIT, ENVIRONMENT = "student", "data", "edit", "environment"
"""Authors besides the roles' own names."""


@dataclass(frozen=True)
class Segment:
    """Consecutive token ids of one author within one turn.

    ``trains``: they are the policy's own words, which terms may select (tool output: False). ``behavior``: each
    token's log-prob in nats under the distribution it was drawn from, NaN where unknown (not given: all unknown).
    ``turn`` counts from 0; what an environment answers belongs to the turn that it answers. ``media`` names what
    the ids stand for besides text. ``context``: the ids that are read in place of all that stands before the
    segment (a template that strips thoughts, a history window); an environment's segment may consist of it and hold no
    ids. ``messages``: the turn that an environment's segment ends and what it answered, as a chat has them.
    Raises ValueError where ``behavior`` is not one number a token.
    """

    ids: list[int]
    author: str = STUDENT
    trains: bool = True
    behavior: list[float] = field(default_factory=list)
    turn: int = 0
    media: tuple[str, ...] = ()
    context: list[int] | None = None
    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        # One and the same NaN: two trajectories that know equally little compare equal.
        known = [UNKNOWN if math.isnan(b) else b for b in self.behavior] or [UNKNOWN] * len(self.ids)
        if len(known) != len(self.ids):
            raise ValueError(f"behavior holds {len(known)} log-probs for {len(self.ids)} ids")
        object.__setattr__(self, "behavior", known)

    @property
    def spoken(self) -> bool:
        """Whether an assistant says it, the policy itself or an expert whose words are given, and nobody answers."""
        return self.trains or self.author == DATA

    def kept(self, count: int) -> Segment:
        """Its first ``count`` tokens."""
        return replace(self, ids=self.ids[:count], behavior=self.behavior[:count])

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Segment:
        return cls(
            **{
                **row,
                "behavior": numbers_of(row["behavior"]),
                "media": tuple(row["media"]),
                "messages": messages_of(row["messages"]),
            }
        )


def messages_of(rows: Iterable[Mapping[str, str]]) -> tuple[Message, ...]:
    """Messages from their JSON form."""
    return tuple(Message(role=one["role"], content=one["content"]) for one in rows)


def first(segments: Iterable[Segment], count: int) -> list[Segment]:
    """The segments that hold the first ``count`` tokens, the last one cut; those without ids behind these as well."""
    kept: list[Segment] = []
    for one in segments:
        if count < 0 or (count == 0 and one.ids):
            break
        kept.append(one.kept(count))
        count -= len(one.ids)
    return kept


def numbers_of(values: Sequence[float | None]) -> list[float]:
    """Numbers from their JSON form, null as NaN."""
    return [UNKNOWN if value is None else value for value in values]
