"""One row of data as a problem with its private fields: cells read and checked, numbers written out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from numbers import Real
from typing import Any, NamedTuple

from selfteach.errors import UserError
from selfteach.task.answer import last_hashes
from selfteach.task.columns import Columns, endings, pick
from selfteach.task.composed import plain
from selfteach.task.conversation import asked, messages_of, replied
from selfteach.task.example import Message
from selfteach.task.options import TaskOptions
from selfteach.task.reading import JsonNumber

TESTS = "tests"
NUMERIC = "answers that are numbers"
MOST_CHARS = 1_000_000
"""Characters of a cell: more fit in no model's window, and reading them takes a hundred times as much memory."""
WRITTEN_OUT = 40
"""A number of more places is left with its power of ten."""


class Record(NamedTuple):
    """One usable row. ``before``: the messages ahead of the problem, if the row holds a conversation."""

    key: str
    problem: str
    private: Mapping[str, str]
    tag: str | None
    before: tuple[Message, ...] = ()


class TooLong(UserError):
    """A cell has more than MOST_CHARS characters: ``chars``."""

    def __init__(self, place: str, name: str, chars: int) -> None:
        self.chars = chars
        super().__init__(
            f"{place}, field {name!r}: {chars:,} characters, more than {MOST_CHARS:,}; cut it, or leave long rows "
            f"out by max_chars (up to {MOST_CHARS})"
        )


class Incomplete(Exception):
    """A row lacks a field; the text names it."""


def read_record(
    place: str,
    key: str,
    row: Mapping[str, Any],
    columns: Columns,
    options: TaskOptions,
    counts: Counter[str],
) -> Record:
    """A row's record; ``counts`` is told where answers came from. Raises Incomplete, or UserError for a bad cell."""
    before, problem = _problem(place, columns.problem, pick(row, columns.problem))
    private = {}
    cell = None if columns.solution is None else pick(row, columns.solution)
    blank = cell is None or _is_missing(cell) or (isinstance(cell, str) and not cell.strip())
    if columns.solution is not None and not (blank and options.verifier == "code"):
        private["solution"] = _reply(place, columns.solution, cell)
    tested = options.verifier == "code"
    several = options.corpus is not None
    answer = None if tested else _answer(place, row, columns, private.get("solution"), counts, several)
    if answer is not None:
        private["answer"] = answer
    elif options.verifier not in ("none", "code"):
        where = f"field {(columns.answer or options.answer_column)!r}"
        end = " and the solution has no \\boxed{}" if columns.solution else ""
        raise Incomplete(f"{where} is missing or empty{end}")
    for name, column in columns.extra.items():
        if name in columns.replies and columns.problem == columns.solution:
            _same_prompt(place, column, pick(row, column), (before, problem))
        cell = pick(row, column)
        if name == TESTS and isinstance(plain(cell), list | Mapping):  # as JSON has them
            cell = json.dumps(plain(cell), default=_plain)
        read = _reply if name in columns.replies else needed
        private[name] = read(place, column, cell)
    for name in columns.read:
        text = _any_text(place, name, row.get(name))
        if text is not None:
            private[name] = text
    tag = None if columns.tag is None else needed(place, columns.tag, pick(row, columns.tag))
    return Record(key=key, problem=problem, private=private, tag=tag, before=before)


def needed(place: str, name: str, value: Any) -> str:
    text = text_of(place, name, value)
    if text is None:
        raise Incomplete(f"field {name!r} is missing or empty")
    return text


def _problem(place: str, name: str, value: Any) -> tuple[tuple[Message, ...], str]:
    messages = _messages(place, name, value)
    if messages is None:
        return (), needed(place, name, value)
    found = asked(messages)
    if found is None:
        raise Incomplete(f"field {name!r} has no message of a user")
    for message in messages:
        text_of(place, name, message["content"])
    chars = sum(len(message["content"]) for message in messages)
    if chars > MOST_CHARS:
        raise TooLong(place, name, chars)
    return found[0], needed(place, name, found[1])


def _reply(place: str, name: str, value: Any) -> str:
    messages = _messages(place, name, value)
    if messages is None:
        return needed(place, name, value)
    found = replied(messages)
    if found is None:
        raise Incomplete(f"field {name!r} ends in no message of an assistant")
    return needed(place, name, found)


def _same_prompt(place: str, name: str, value: Any, prompt: tuple[tuple[Message, ...], str]) -> None:
    """UserError where a conversation that is compared with another one answers another prompt."""
    messages = _messages(place, name, value)
    found = None if messages is None else asked(messages)
    if found is not None and (found[0], found[1].strip()) != (prompt[0], prompt[1].strip()):
        raise UserError(
            f"{place}, field {name!r}: it answers another prompt than the answer it is compared with; leave the row "
            "out, or mend it"
        )


def _messages(place: str, name: str, value: Any) -> list[Message] | None:
    try:
        return messages_of(value)
    except ValueError as error:
        raise UserError(f"{place}, field {name!r}: {error}; leave the row out, or write text") from None


# --- answers ----------------------------------------------------------------------------------------------------------


def _answer(
    place: str,
    row: Mapping[str, Any],
    columns: Columns,
    solution: str | None,
    counts: Counter[str],
    several: bool,
) -> str | None:
    """``several``: a list of texts holds answers that are all right."""
    value = None if columns.answer is None else accepted(pick(row, columns.answer), several)
    if is_number(value):
        counts[NUMERIC] += 1
    text = None if columns.answer is None else text_of(place, columns.answer, value, numbers=True)
    if text is None:
        return None if solution is None else _at_the_end(solution, counts)
    behind = last_hashes(text)
    if behind is not None:
        counts["answers taken from behind ####"] += 1
        return behind
    return _only_item(text)


def _at_the_end(solution: str, counts: Counter[str]) -> str | None:
    """The final answer in a worked solution: its last box, what stands behind its last ####, or the answer it says."""
    for where, found in endings(solution):
        if found is not None and found.strip():
            counts[f"answers taken from {where}"] += 1
            return found.strip()
    return None


def accepted(value: Any, several: bool) -> Any:
    """A cell with a list of accepted answers as text: the only one, or, where ``several`` may be right, a JSON list."""
    listed = plain(value)
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
        return value
    return listed[0] if len(listed) == 1 else json.dumps(listed, ensure_ascii=False) if several else value


def _only_item(text: str) -> str:
    """``33`` of ``["33"]``, as some sets write a list of accepted answers."""
    if not (text.startswith('["') and text.endswith('"]')):
        return text
    try:
        items = json.loads(text)
    except ValueError:
        return text
    return items[0] if len(items) == 1 and isinstance(items[0], str) and items[0].strip() else text


# --- cells ------------------------------------------------------------------------------------------------------------


def text_of(place: str, name: str, value: Any, numbers: bool = False) -> str | None:
    """The cell as text, None if missing or blank, as NaN and infinities are. Numbers are taken for answers only."""
    if value is None or _is_missing(value):
        return None
    if numbers and is_number(value):
        return _written_out(value)
    if not isinstance(value, str):
        kind = "float" if isinstance(value, JsonNumber) else type(value).__name__
        raise UserError(f"{place}, field {name!r}: of type {kind}, not a string; write it as one")
    if len(value) > MOST_CHARS:
        raise TooLong(place, name, len(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"character {error.start} is half a surrogate pair"
        raise UserError(f"{place}, field {name!r}: {what}; mend it") from error
    return value if value.strip() else None


def _any_text(place: str, name: str, value: Any) -> str | None:
    """The cell as text; a dict (verl's extra_info), as JSON."""
    if not isinstance(value, Mapping):
        return text_of(place, name, value)
    try:
        written = json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError):
        return text_of(place, name, value)
    if len(written) > MOST_CHARS:
        raise TooLong(place, name, len(written))
    return written


def _plain(value: Any) -> Any:
    """NumPy's arrays and scalars as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


def is_number(value: Any) -> bool:
    """Whether a cell holds a number: an int, a finite float, one of NumPy's, a Decimal."""
    return isinstance(value, Real | Decimal) and not isinstance(value, bool) and not _is_missing(value)


def _is_missing(value: Any) -> bool:
    """What tables and JSON write where no number is."""
    if isinstance(value, JsonNumber):
        return False
    return isinstance(value, float | Decimal) and not math.isfinite(value)


def _written_out(value: Any) -> str:
    """A number in decimal digits, as it stands in the file: 5e-05 is 0.00005."""
    written = value.written if isinstance(value, JsonNumber) else str(value)
    try:
        number = Decimal(written)
    except InvalidOperation:
        return written
    return format(number, "f") if abs(number.adjusted()) <= WRITTEN_OUT else written
