"""A trajectory: what stands after a prompt, who wrote which part of it, and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate, compress, pairwise
from typing import Any

from selfteach.task.annotation import Annotation
from selfteach.task.example import Example, Grade, Message
from selfteach.task.segment import EDIT, STUDENT, UNKNOWN, Segment, first, numbers_of

LATER: Mapping[str, Any] = {"history": [], "behind": None}
"""Fields that trajectories stored by an earlier version lack."""


@dataclass(frozen=True)
class Trajectory:
    """Segments after a prompt; the lists ``ids``, ``mask``, ``behavior``, ``turn``, ``authors`` [T] run over them all.

    ``text``: what a verifier reads. ``group`` is shared by the trajectories of one prompt in a step; ``finished`` says
    that it ended by itself, not by the length limit. ``marks`` names further bool columns [T]; ``numbers`` a number of
    the row or one a token (turn rewards, success rates); ``log_probs`` holds what a role of signal "sampled" gave the
    tokens (nats, [T]), by role. ``origin``: who wrote the row: "student", "data", a role, or "edit". ``pair``: the
    ``trajectory`` of the row that this one is preferred to. ``parent`` names the trajectory it was forked from, behind
    the first ``fork`` tokens. ``temperature`` is that of sampling. ``trajectory`` is shared by rows that were one
    (``rows``); ``history``: what had been said since the prompt where such a row begins,
    ``behind`` its ids (None: the template does not render it as it was written).

    Raises ValueError where a column is not as long as the ids.
    """

    example: Example
    prompt_ids: list[int]
    segments: tuple[Segment, ...]
    text: str
    group: int
    finished: bool
    grade: Grade | None = None
    annotation: Annotation | None = None
    marks: Mapping[str, list[bool]] = field(default_factory=dict)
    numbers: Mapping[str, float | list[float]] = field(default_factory=dict)
    log_probs: Mapping[str, list[float]] = field(default_factory=dict)
    origin: str = STUDENT
    pair: int | None = None
    parent: str | None = None
    fork: int | None = None
    temperature: float = 1.0
    trajectory: int | None = None
    history: tuple[Message, ...] = ()
    behind: list[int] | None = None

    def __post_init__(self) -> None:
        length = len(self.ids)
        numbers = {name: value for name, value in self.numbers.items() if isinstance(value, list)}
        for kind, columns in (("marks", self.marks), ("numbers", numbers), ("log_probs", self.log_probs)):
            for name, column in columns.items():
                if len(column) != length:
                    raise ValueError(f"{kind} {name!r} holds {len(column)} values for {length} ids")
        if self.fork is not None and not 0 <= self.fork <= length:
            raise ValueError(f"fork is {self.fork}: it must lie within the {length} ids")
        if any(
            after.turn < before.turn for before, after in zip(self.segments, self.segments[1:], strict=False)
        ):
            raise ValueError(f"turns must not go back, got {[one.turn for one in self.segments]}")

    @classmethod
    def written(
        cls,
        example: Example,
        prompt_ids: list[int],
        ids: list[int],
        text: str,
        *,
        group: int,
        finished: bool,
        behavior: list[float] | None = None,
        origin: str = STUDENT,
        **more: Any,
    ) -> Trajectory:
        """The common case: one turn by one author, ``origin``, all of it trained on."""
        segment = Segment(ids, origin, behavior=behavior or [])
        return cls(example, prompt_ids, (segment,), text, group, finished, origin=origin, **more)

    # --- flat columns ---------------------------------------------------------------------------------------------

    @cached_property
    def ids(self) -> list[int]:
        return [token for one in self.segments for token in one.ids]

    @cached_property
    def mask(self) -> list[bool]:
        """Where the policy itself is trained on the token."""
        return [one.trains for one in self.segments for _ in one.ids]

    @cached_property
    def behavior(self) -> list[float]:
        return [log_prob for one in self.segments for log_prob in one.behavior]

    def drawn_by(self, author: str) -> list[float]:
        """``behavior`` of the author's own tokens, NaN elsewhere."""
        pairs = zip(self.behavior, self.authors, strict=True)
        return [log_prob if who == author else math.nan for log_prob, who in pairs]

    @cached_property
    def turn(self) -> list[int]:
        return [one.turn for one in self.segments for _ in one.ids]

    @cached_property
    def authors(self) -> list[str]:
        return [one.author for one in self.segments for _ in one.ids]

    @property
    def sampled(self) -> bool:
        """Whether the behavior log-prob of every trained token is known."""
        return not any(own and math.isnan(b) for own, b in zip(self.mask, self.behavior, strict=True))

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The turns that are over, as messages."""
        return tuple(message for one in self.segments for message in one.messages)

    @property
    def right(self) -> bool:
        """Whether it was graded, and as correct."""
        return self.grade is not None and self.grade.correct

    @property
    def is_later_turn(self) -> bool:
        """Whether it is a row that begins after the first turn (``rows``)."""
        return next((one.turn for one in self.segments if one.ids), 0) > 0

    @property
    def next_turn(self) -> int:
        """The turn that what is written next belongs to: a new one after an environment has answered."""
        if not self.segments:
            return 0
        last = self.segments[-1]
        return last.turn if last.spoken else last.turn + 1

    def turn_at(self, begin: int) -> int:
        """The turn of token ``begin``, behind the last token that of what is written next."""
        return self.turn[begin] if begin < len(self.ids) else self.next_turn

    @property
    def next_context(self) -> list[int]:
        """All that is read before the next token: the last segment's own context, and all that stands behind it."""
        contexts = [one.context for one in self.segments if one.context is not None]
        return [*(contexts[-1] if contexts else self.prompt_ids), *self.since_context]

    @property
    def since_context(self) -> list[int]:
        """What stands behind the last context of a segment's own (without one: all the ids)."""
        since: list[int] = []
        for one in self.segments:
            since = [*([] if one.context is not None else since), *one.ids]
        return since

    # --- changed copies -------------------------------------------------------------------------------------------

    def graded(self, grade: Grade) -> Trajectory:
        return replace(self, grade=grade)

    def with_numbers(self, **numbers: float | list[float]) -> Trajectory:
        return replace(self, numbers={**self.numbers, **numbers})

    def told(self, **fields: str) -> Trajectory:
        """With these private fields of its example, for views to show (``Told``)."""
        return replace(self, example=self.example.told(**fields))

    def marked_last(self, name: str) -> Trajectory:
        """With the mark ``name`` on the tokens of the last segment."""
        last = len(self.segments[-1].ids)
        return replace(self, marks={**self.marks, name: [False] * (len(self.ids) - last) + [True] * last})

    def extended(self, segment: Segment, text: str, *, finished: bool | None = None) -> Trajectory:
        """With a further segment; ``text`` is the whole one's. The grade and annotation of the shorter one are dropped.

        Marks of the new tokens are False, their numbers and log-probs unknown.
        """
        more = len(segment.ids)
        return self._of(
            (*self.segments, segment),
            text,
            finished=self.finished if finished is None else finished,
            marks={name: [*column, *[False] * more] for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: [*column, *[UNKNOWN] * more]),
            log_probs={name: [*column, *[UNKNOWN] * more] for name, column in self.log_probs.items()},
        )

    def edited(
        self, begin: int, ids: list[int], author: str = EDIT, *, text: str, finished: bool
    ) -> Trajectory:
        """With ``ids`` of ``author`` in place of all tokens from ``begin`` on; ``text`` is the whole one's (CaOPD).

        ``finished``: whether the new tokens end the turn by themselves, however the old ones ended.

        Nobody sampled the new tokens, so their behavior log-probs are void (NaN). What was said of the old tokens
        (grade, annotation, marks, numbers by token, log-probs) is dropped, and the messages of later turns with them.
        Raises ValueError where ``begin`` lies outside the ids, or within what an environment answered.
        """
        if not 0 <= begin <= len(self.ids):
            raise ValueError(f"begin is {begin}: it must lie within the {len(self.ids)} ids")
        kept = first(self.segments, begin)
        # Half an answer has no messages of its own: the next turn would be written after words that do not stand here.
        if 0 < begin < len(self.ids) and not kept[-1].trains and kept[-1] != self.segments[len(kept) - 1]:
            raise ValueError(
                f"begin is {begin}, within what {kept[-1].author!r} answered: begin before or behind its whole answer"
            )
        behind = self.segments[len(kept) :]
        # What begins where a segment began was to stand behind that segment's own context.
        whole = sum(len(one.ids) for one in self.segments[: len(kept)]) == begin
        context = behind[0].context if behind and whole else None
        new = Segment(ids, author, turn=self.turn_at(begin), context=context)
        rows = {name: value for name, value in self.numbers.items() if not isinstance(value, list)}
        fork = None if self.fork is None else min(self.fork, begin)
        return self._of((*kept, new), text, finished=finished, numbers=rows, origin=EDIT, fork=fork)

    def cut(self, turns: int, *, text: str, parent: str | None = None) -> Trajectory:
        """Its first ``turns`` turns, to go on from: a fork of ``parent`` (not given: of the example's key) behind them.

        Each is kept with what the environment answered it, whether that stands in the ids or in a context of its own.
        ``text`` is what is left of it. Raises ValueError where it has fewer turns.
        """
        have = len(set(self.turn))
        if not 0 <= turns <= have:
            raise ValueError(f"turns is {turns}: the trajectory has {have}")
        last = sorted(set(self.turn))[:turns]
        kept = tuple(one for one in self.segments if one.turn in last)
        length = sum(len(one.ids) for one in kept)
        return self._of(
            kept,
            text,
            # A last turn that nobody answered ends as it did; behind an answer the next turn is still to be written.
            finished=self.finished and len(kept) == len(self.segments),
            marks={name: column[:length] for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: column[:length]),
            log_probs={name: column[:length] for name, column in self.log_probs.items()},
            parent=self.example.key if parent is None else parent,
            fork=length,
        )

    def cut_segments(self, count: int) -> Trajectory:
        """Its first ``count`` segments, with all that was said of their tokens."""
        kept = self.segments[:count]
        length = sum(len(one.ids) for one in kept)
        return self._of(
            kept,
            self.text,
            grade=self.grade,
            marks={name: column[:length] for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: column[:length]),
            log_probs={name: column[:length] for name, column in self.log_probs.items()},
        )

    def head(self, tokens: int, *, text: str) -> Trajectory:
        """Its first ``tokens`` tokens, to go on from: a fork behind them. ``text`` is what is left of it.

        What was said of each kept token stays; grade and annotation go. Raises ValueError where it has fewer tokens.
        """
        if not 0 <= tokens <= len(self.ids):
            raise ValueError(f"tokens is {tokens}: the trajectory has {len(self.ids)}")
        return self._of(
            first(self.segments, tokens),
            text,
            finished=False,
            marks={name: column[:tokens] for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: column[:tokens]),
            log_probs={name: column[:tokens] for name, column in self.log_probs.items()},
            parent=self.example.key if self.parent is None else self.parent,
            fork=tokens,
        )

    def rows(self) -> list[Trajectory]:
        """Itself; or, where segments have contexts of their own, a row from each of these to the next one.

        So every token stands behind the ids it was sampled after. All rows share ``trajectory``: ValueError if it has
        no number yet.
        """
        if all(one.context is None for one in self.segments):
            return [self]
        if self.trajectory is None:
            raise ValueError("rows of one trajectory must share its number: set trajectory first")
        parts: list[list[Segment]] = [[]]
        for one in self.segments:
            if one.context is not None and any(part.ids for part in parts[-1]):
                parts.append([])
            parts[-1].append(one)
        begins = [0, *accumulate(sum(len(one.ids) for one in part) for part in parts)]
        rows, history = [], self.history
        for part, (begin, end) in zip(parts, pairwise(begins), strict=True):
            opens = part[0].messages if part and part[0].context is not None else ()
            if any(one.ids for one in part):
                rows.append(self._row(part, begin, end, (*history, *opens)))
            history = (*history, *(message for one in part for message in one.messages))
        return rows

    def turns_apart(self) -> Trajectory:
        """The same with each turn behind a context of its own, the ids that it was sampled behind: a row each
        (``rows``), so that what a role is shown may differ from turn to turn."""
        segments: list[Segment] = []
        kept: list[bool] = []
        read = list(self.prompt_ids)
        for one in self.segments:
            read = [*(read if one.context is None else one.context), *one.ids]
            opens = not one.spoken and one.context is None and bool(one.messages)
            segments.append(replace(one, ids=[], behavior=[], context=read) if opens else one)
            kept += [not opens] * len(one.ids)
        return self._of(
            segments,
            self.text,
            grade=self.grade,
            marks={name: list(compress(column, kept)) for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: list(compress(column, kept))),
            log_probs={name: list(compress(column, kept)) for name, column in self.log_probs.items()},
            fork=None,
        )

    def _row(self, part: Sequence[Segment], begin: int, end: int, history: tuple[Message, ...]) -> Trajectory:
        context = next((one.context for one in part if one.context is not None), None)
        own = len(self.prompt_ids)
        extends = context is not None and context[:own] == self.prompt_ids
        return replace(
            self,
            prompt_ids=self.prompt_ids if context is None else context,
            behind=context[own:] if context is not None and extends else None,
            # What opens the row stands in its history.
            segments=tuple(
                replace(one, context=None, messages=() if one.context is not None else one.messages)
                for one in part
            ),
            history=history,
            marks={name: column[begin:end] for name, column in self.marks.items()},
            numbers=_each(self.numbers, lambda column: column[begin:end]),
            log_probs={name: column[begin:end] for name, column in self.log_probs.items()},
            fork=None,
        )

    def _of(self, segments: Sequence[Segment], text: str, **columns: Any) -> Trajectory:
        """A copy of other tokens; what is not in ``columns`` and was said of the old ones is dropped."""
        about: dict[str, Any] = {
            "marks": {},
            "numbers": {},
            "log_probs": {},
            "grade": None,
            "annotation": None,
        }
        return replace(self, segments=tuple(segments), text=text, **{**about, **columns})

    # --- as JSON --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON holds exactly, NaN as null."""
        row: dict[str, Any] = _null(asdict(self))
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trajectory:
        """What ``to_json`` gave, from JSON. Raises KeyError, TypeError or ValueError for anything else."""
        row = {**LATER, **row}
        known = {one.name for one in fields(cls)}
        if set(row) != known:
            raise KeyError(f"a stored trajectory has the fields {sorted(known)}")
        example, note = row["example"], row["annotation"]
        prompt, question = _messages(example["prompt"]), example.get("question")
        plain: dict[str, Any] = {
            "example": Example(**{**example, "prompt": prompt, "question": question and _messages(question)}),
            "segments": tuple(Segment.from_json(one) for one in row["segments"]),
            "grade": row["grade"] and Grade(**row["grade"]),
            "annotation": note and Annotation(note["kind"], _spans(note["key"]), _spans(note["error"])),
            "numbers": {name: _number(value) for name, value in row["numbers"].items()},
            "history": _messages(row.get("history", ())),
            "log_probs": {name: numbers_of(value) for name, value in row["log_probs"].items()},
        }
        return cls(**{**row, **plain})


def _each(
    numbers: Mapping[str, float | list[float]], change: Callable[[list[float]], list[float]]
) -> dict[str, float | list[float]]:
    """Numbers by token changed, those of the row as they are."""
    return {name: change(value) if isinstance(value, list) else value for name, value in numbers.items()}


def _messages(rows: Iterable[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(role=m["role"], content=m["content"]) for m in rows)


def _null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _null(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_null(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any) -> float | list[float]:
    return numbers_of(value) if isinstance(value, list) else UNKNOWN if value is None else float(value)


def _spans(spans: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((begin, end) for begin, end in spans)
