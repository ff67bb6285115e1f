"""Which columns of a source are the problem, the solution, the answer and the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from selfteach.errors import UserError
from selfteach.task.answer import last_boxed, last_hashes
from selfteach.task.code_layouts import LAYOUTS as CODE_LAYOUTS
from selfteach.task.composed import COMPOSED, UNPAIRED, composed_of, made
from selfteach.task.conversation import messages_of, replied
from selfteach.task.layouts import DEFAULT, PEEKED, Layout, recognized
from selfteach.task.options import TaskOptions
from selfteach.task.reading import Source
from selfteach.task.reward import RewardFunction

STARTER = "starter_code"
"""The column, and the private field, with what a program goes on from, as APPS and LiveCodeBench call it."""
log = logging.getLogger(__name__)

SAID = re.compile(r"(?:^|\n)[^\n]{0,40}?[Tt]he answer is:?[^\S\n]*(\S[^\n]*)")
"""An answer that a text says in words."""


@dataclass(frozen=True)
class Columns:
    """The source's own names of the wanted columns, or fields of them (``reward_model.ground_truth``); None where it
    has none. ``layout`` names the public layout that they were found by."""

    problem: str
    solution: str | None
    answer: str | None
    tag: str | None
    extra: Mapping[str, str]
    """Private field → column, of fields that every row must have."""
    read: tuple[str, ...] = ()
    """Columns that a reward function has parameters for."""
    replies: tuple[str, ...] = ()
    """Private fields whose cells may be conversations: the last reply counts."""
    layout: str = DEFAULT
    composed: bool = False
    """The cells are made of several columns (``composed``)."""

    def wanted(self, source: Source) -> list[str]:
        """The source's columns that hold them."""
        names = (self.problem, self.solution, self.answer, self.tag, *self.extra.values(), *self.read)
        return list(dict.fromkeys(_holder(source, name) for name in names if name is not None))

    @property
    def described(self) -> str:
        roles = (("problem", self.problem), ("solution", self.solution), ("answer", self.answer))
        if self.composed:
            return self.layout
        said = ", ".join(f"{role} = {name}" for role, name in roles if name is not None)
        return f"{self.layout} ({said})"


def pick(row: Mapping[str, Any], column: str) -> Any:
    """The cell, or the field of it that a dotted name means; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def composed(source: Source, options: TaskOptions) -> tuple[Source, str | None]:
    """The source with problems made of several columns, and the layout's name, if it has one that needs that and no
    option names a column; else the source as it is, and None. UserError where unpaired preferences are asked for of
    other rows."""
    if options.unpaired:
        return made(unpaired(source), UNPAIRED), UNPAIRED.name
    roles = ("problem_column", "solution_column", "answer_column")
    if any(getattr(options, role) != getattr(TaskOptions, role) for role in roles):
        return source, None
    layouts = CODE_LAYOUTS if options.verifier == "code" else COMPOSED
    layout = composed_of(source, lambda: _head(source), layouts)
    return (source, None) if layout is None else (made(source, layout), layout.name)


def unpaired(source: Source) -> Source:
    """The source, if it has the columns of unpaired preferences."""
    known = {column.casefold() for column in source.columns}
    if not (UNPAIRED.columns <= known and known & {"prompt", "problem"}):
        raise UserError(
            f"{source.label}: unpaired is set, which reads columns prompt, completion and label; it has "
            f"{', '.join(map(repr, source.columns))}: leave it out, or rename them"
        )
    return source


def ungraded(source: Source, columns: Columns, options: TaskOptions) -> bool:
    """Whether nothing could grade an answer: there is no answer column, and none of the first solutions ends in one."""
    if options.verifier != TaskOptions.verifier or columns.answer is not None or columns.layout == DEFAULT:
        return False
    if columns.solution is None:
        return True
    wanted = columns.wanted(source)
    cells = [pick(row, columns.solution) for _, row in islice(source.rows(wanted), PEEKED)]
    return not any(ends_in_an_answer(cell) for cell in cells)


def resolve(source: Source, options: TaskOptions, reward: RewardFunction | None) -> Columns:
    """By the options where they name a column, else by the public layout that the source fits (``layouts``).

    Raises UserError for a column that is wanted and not there.
    """
    layout = judged_layout(source, options) or recognized(source.columns, lambda: _head(source))
    names = _by_layout(options, layout)
    if options.verifier == "code":
        names["answer"] = None
        solution = names["solution"]
        if (
            solution is not None
            and solution == TaskOptions.solution_column
            and _match(source, solution) is None
        ):
            names["solution"] = None  # tests are enough
    columns = Columns(
        problem=_needed(source, "problem_column", names["problem"]),
        solution=None if names["solution"] is None else _needed(source, "solution_column", names["solution"]),
        answer=_answer(source, options, names),
        tag=None if options.tag_column is None else _needed(source, "tag_column", options.tag_column),
        extra={
            name: _needed(source, "extra_columns", name)
            for name in dict.fromkeys((*options.extra_columns, *(layout.extra if layout else ())))
        },
        layout=DEFAULT if layout is None else layout.name,
        replies=layout.replies if layout else (),
    )
    if options.verifier == "code":
        columns = _with_tests(source, options, columns)
    if columns.answer == columns.solution:
        columns = replace(columns, answer=None)  # the answer stands at the solution's end
    return columns if reward is None else replace(columns, read=_read_by(reward, source, columns))


def _with_tests(source: Source, options: TaskOptions, columns: Columns) -> Columns:
    """The columns where tests judge: no row needs an answer, and what a program goes on from may be there."""
    tests = {"tests": _needed(source, "tests_column", options.tests_column)}
    starter = _match(source, STARTER)
    extra = {**columns.extra, **tests}
    return replace(columns, answer=None, extra=extra, read=(starter,) if starter else ())


def judged_layout(source: Source, options: TaskOptions) -> Layout | None:
    """Unpaired preferences as a layout, where they are asked for; an answer column may stand beside them."""
    if not options.unpaired:
        return None
    answer = (
        options.answer_column if options.answer_column and _match(source, options.answer_column) else None
    )
    extra = ("completion", "label")
    return Layout(UNPAIRED.name, UNPAIRED.columns, "problem", None, answer, extra=extra, replies=extra[:1])


def say(name: str, columns: Columns) -> None:
    """Tell once what was recognized, if it is not what the options' defaults say anyway."""
    if columns.layout != DEFAULT:
        log.warning("%s: columns read as %s", name, columns.described)


def _head(source: Source) -> Sequence[Mapping[str, Any]]:
    rows = (row for _, row in islice(source.rows(list(source.columns)), PEEKED))
    return [{str(name).casefold(): value for name, value in row.items()} for row in rows]


def _by_layout(options: TaskOptions, layout: Layout | None) -> dict[str, str | None]:
    """Names by role. An option that is set wins over the layout."""
    found: dict[str, str | None] = {}
    for role in ("problem", "solution", "answer"):
        chosen = getattr(options, f"{role}_column")
        default = getattr(TaskOptions, f"{role}_column")
        found[role] = chosen if layout is None or chosen != default else getattr(layout, role)
    return found


def _answer(source: Source, options: TaskOptions, names: Mapping[str, str | None]) -> str | None:
    """The column of the answer; None if there is none, where that is no mistake."""
    name = names["answer"]
    if name is None or (found := _match(source, name)) is not None:
        return name if name is None else found
    if names["solution"] is not None:
        return None  # the solution's end is the answer
    if options.verifier == "none" and name == TaskOptions.answer_column:
        return None  # nobody asked for this one
    return _needed(source, "answer_column", name)


def _needed(source: Source, option: str, name: str | None) -> str:
    found = None if name is None else _match(source, name)
    if found is None:
        raise UserError(
            f"{source.label}, row 1: no field {name!r}, it has {', '.join(map(repr, source.columns))}; "
            f"set {option} to one of these{' or to None' if option == 'solution_column' else ''}{half(source.columns)}"
        )
    return found


def half(columns: Sequence[str]) -> str:
    """What rows lack that have one answer of a pair, in words; nothing for others."""
    lacks = {"chosen", "rejected"} - {column.casefold() for column in columns}
    return f"; of a preference they lack {lacks.pop()!r}" if len(lacks) == 1 else ""


def _match(source: Source, name: str) -> str | None:
    """The source's spelling of a name, whatever its case where one column only fits; of a field, its column's."""
    if name in source.columns:
        return name
    similar = [c for c in source.columns if c.casefold() == name.casefold()]
    if len(similar) == 1:
        return similar[0]
    head, dot, rest = name.partition(".")
    holder = _match(source, head) if dot else None
    return None if holder is None else f"{holder}.{rest}"


def _holder(source: Source, name: str) -> str:
    return name if name in source.columns else name.partition(".")[0]


def _read_by(reward: RewardFunction, source: Source, columns: Columns) -> tuple[str, ...]:
    """The columns that a reward function has parameters for, beside those that are private fields anyway."""
    fields = {
        *columns.extra,
        *(["solution"] if columns.solution else []),
        *(["answer"] if columns.answer else []),
    }
    read = tuple(sorted(reward.columns.intersection(source.columns) - fields))
    ended = ["answer"] if columns.solution else []  # some of the solutions may hold it
    lack = reward.lacks({*fields, *read, *ended})
    if lack is not None:
        raise UserError(
            f"{source.label}, row 1: no field {lack!r}, which {reward} has a parameter for; it has "
            f"{', '.join(map(repr, source.columns))}"
        )
    return read


def ends_in_an_answer(cell: Any) -> bool:
    """Whether a solution's text, or the last reply of a conversation, holds a final answer."""
    try:
        messages = messages_of(cell)
    except ValueError:
        return False
    text = cell if messages is None else replied(messages)
    return isinstance(text, str) and any(found is not None for _, found in endings(text))


def endings(solution: str) -> tuple[tuple[str, str | None], ...]:
    """(where, what) may be the final answer in a worked solution: its last box, what stands behind its last ####, or
    the answer that it says."""
    said = SAID.findall(solution)
    return (
        ("the solution's last \\boxed{}", last_boxed(solution)),
        ("behind ####", last_hashes(solution)),
        ("'The answer is' in the solution", said[-1].strip().removesuffix(".") if said else None),
    )
