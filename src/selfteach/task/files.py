"""A finite set of problems from a file, a folder or the Hugging Face hub as a task."""

from __future__ import annotations

import logging
import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

from selfteach.errors import UserError
from selfteach.task.answer import AnswerFormat, extract_answer, last_boxed
from selfteach.task.example import Example, Grade
from selfteach.task.math_answer import check_math
from selfteach.task.options import TaskOptions
from selfteach.task.reading import Source
from selfteach.task.reward import RewardFunction
from selfteach.task.split import fingerprint, held_out_of
from selfteach.task.verdict import Verdict

log = logging.getLogger(__name__)

FEWER = "fewer problems are held out"


class Record(NamedTuple):
    """One usable row."""

    key: str
    problem: str
    private: Mapping[str, str]
    tag: str | None


@dataclass(frozen=True)
class FileTask:
    """Problems with their solutions and answers, reshuffled in every epoch.

    ``train(i)`` depends on the seed and i alone: epoch ``i // rows`` has its own permutation. ``counts`` says what
    reading did (rows left out, answers taken from solutions …), ``verdicts`` what the checks of answers found.
    """

    name: str
    rows: Sequence[Record]
    held_out_rows: Sequence[Record]
    seed: int
    options: TaskOptions
    counts: Mapping[str, int]
    wording: Mapping[str, str] = field(default_factory=dict)
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)
    said: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def answer_format(self) -> AnswerFormat:
        return self.options.answer_format or "boxed"

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": self.name,
            "training rows": len(self.rows),
            "held-out rows": len(self.held_out_rows),
            "verifier": self.options.verifier,
            **self.counts,
        }

    def train(self, index: int) -> Example:
        epoch, position = divmod(index, len(self.rows))
        return self._example(self.rows[_order(self.seed, epoch, len(self.rows))[position]])

    def held_out(self, count: int) -> list[Example]:
        """The first ``count`` held-out problems, the same for every seed; all, where there are fewer: the log says so
        once. UserError if none is held out."""
        have = len(self.held_out_rows)
        if count and not have:
            raise UserError(
                f"{self.name}: no problem is held out: raise held_out_fraction, give a held_out_file, or ask for none"
            )
        if count > have and FEWER not in self.said:
            self.said.add(FEWER)
            log.warning("%s: %d of %d problems asked for: no more are held out", self.name, have, count)
        return [self._example(row) for row in self.held_out_rows[:count]]

    def grade(self, example: Example, answer: str) -> Grade:
        """Reward 1 for the right final answer, else 0; always 0, and uncounted, without a verifier."""
        claim = extract_answer(answer, self.answer_format)
        if self.options.verifier == "none":
            return Grade(0.0, claim=claim)
        verdict = self._check(example.private["answer"], claim)
        self.verdicts[verdict] += 1
        return verdict.grade(claim)

    def _check(self, gold: str, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.NO_ANSWER
        if self.options.verifier == "math":
            return check_math(answer, gold, self.options.grade_seconds, self.options.answer_type)
        return Verdict.RIGHT if answer == gold.strip() else Verdict.WRONG

    def _example(self, row: Record) -> Example:
        prompt = self.options.prompt(row.problem, self.answer_format)
        return Example(key=row.key, prompt=prompt, private=row.private, tag=row.tag)


def read_task(
    name: str,
    source: Source,
    open_held_out: Callable[[str], Source],
    *,
    seed: int = 0,
    options: TaskOptions,
    reward: RewardFunction | None = None,
) -> FileTask:
    """Read and check every row once, and split. Raises UserError at the first row that cannot be used.

    A held-out problem is never trained on: with a held-out file its problems are taken out of the training rows,
    without one the hash of a problem decides, so that its duplicates go the same way. ``reward``: who grades in place
    of the verifier (the caller sees to that). Columns that it has parameters for become private fields, a row without
    one that it cannot do without is incomplete, and apart from that no row needs an answer.
    """
    if reward is not None:
        options = _graded_by(reward, options)
    counts: Counter[str] = Counter()
    records = list(_records(source, options, reward, counts))
    if options.held_out_file is None:
        known = held_out_of((r.problem for r in records), options.held_out_fraction)
        held_out = [r for r in records if fingerprint(r.problem) in known]
    else:
        held_out = list(_records(open_held_out(options.held_out_file), options, reward, Counter()))
        known = frozenset(fingerprint(r.problem) for r in held_out)
    rows = [r for r in records if fingerprint(r.problem) not in known]
    if options.held_out_file is not None:
        counts["rows dropped: problem is held out"] = len(records) - len(rows)
    held_out = _distinct(held_out)
    counts["duplicate training rows"] = len(rows) - len({fingerprint(r.problem) for r in rows})
    if not rows:
        raise UserError(f"{source.label}: no training rows are left ({_listed(counts)})")
    for what, count in counts.items():
        if count:
            log.warning("%s: %s: %d", name, what, count)
    return FileTask(name, rows, held_out, seed, options, {k: v for k, v in counts.items() if v})


def _graded_by(reward: RewardFunction, options: TaskOptions) -> TaskOptions:
    if options.verifier not in ("none", TaskOptions.verifier):
        raise UserError(f"verifier is {options.verifier}, but {reward} grades: leave one of the two out")
    return replace(options, verifier="none")


@dataclass(frozen=True)
class _Columns:
    """The source's own names of the wanted columns; None where it has none."""

    problem: str
    solution: str | None
    answer: str | None
    tag: str | None
    extra: Mapping[str, str]
    """Private field → column, of fields that every row must have."""
    read: tuple[str, ...] = ()
    """Columns that a reward function has parameters for."""

    @property
    def names(self) -> list[str]:
        wanted = (self.problem, self.solution, self.answer, self.tag, *self.extra.values(), *self.read)
        return list(dict.fromkeys(name for name in wanted if name is not None))


def _resolve(source: Source, options: TaskOptions, reward: RewardFunction | None) -> _Columns:
    def find(option: str, name: str | None) -> str | None:
        if name is None or name in source.columns:
            return name
        similar = [c for c in source.columns if c.casefold() == name.casefold()]
        if len(similar) == 1:
            return similar[0]
        if option == "answer_column" and options.solution_column is not None:
            return None  # the solution's last box is the answer
        if option == "answer_column" and options.verifier == "none" and name == TaskOptions.answer_column:
            return None  # nobody asked for this one
        raise UserError(
            f"{source.label}, row 1: no field {name!r}, it has {', '.join(map(repr, source.columns))}; "
            f"set {option} to one of these" + (" or to None" if option == "solution_column" else "")
        )

    problem = find("problem_column", options.problem_column)
    assert problem is not None
    columns = _Columns(
        problem=problem,
        solution=find("solution_column", options.solution_column),
        answer=find("answer_column", options.answer_column),
        tag=find("tag_column", options.tag_column),
        extra={name: str(find("extra_columns", name)) for name in options.extra_columns},
    )
    return columns if reward is None else replace(columns, read=_read_by(reward, source, columns))


def _read_by(reward: RewardFunction, source: Source, columns: _Columns) -> tuple[str, ...]:
    """The columns that a reward function has parameters for, beside those that are private fields anyway."""
    fields = {
        *columns.extra,
        *(["solution"] if columns.solution else []),
        *(["answer"] if columns.answer else []),
    }
    read = tuple(sorted(reward.columns.intersection(source.columns) - fields))
    boxed = ["answer"] if columns.solution else []  # some of the solutions may hold it
    lack = reward.lacks({*fields, *read, *boxed})
    if lack is not None:
        raise UserError(
            f"{source.label}, row 1: no field {lack!r}, which {reward} has a parameter for; it has "
            f"{', '.join(map(repr, source.columns))}"
        )
    return read


def _records(
    source: Source, options: TaskOptions, reward: RewardFunction | None, counts: Counter[str]
) -> Iterator[Record]:
    columns = _resolve(source, options, reward)
    for number, row in source.rows(columns.names):
        place = f"{source.label}, row {number}"
        try:
            record = _record(source, number, row, columns, options, counts)
            lack = None if reward is None else reward.lacks(record.private)
            if lack is not None:
                raise _Incomplete(f"field {lack!r}, which {reward} has a parameter for, is missing or empty")
        except _Incomplete as missing:
            if not options.skip_incomplete_rows:
                raise UserError(f"{place}: {missing}; mend the row or set skip_incomplete_rows") from None
            counts["rows left out: a needed field is missing"] += 1
            continue
        length = len(record.problem) + sum(map(len, record.private.values()))
        if options.max_chars is not None and length > options.max_chars:
            counts["rows left out: longer than max_chars"] += 1
            continue
        yield record


class _Incomplete(Exception):
    """A row lacks a field; the text names it."""


def _record(
    source: Source,
    number: int,
    row: Mapping[str, Any],
    columns: _Columns,
    options: TaskOptions,
    counts: Counter[str],
) -> Record:
    place = f"{source.label}, row {number}"

    def needed(name: str) -> str:
        text = _text(place, name, row.get(name))
        if text is None:
            raise _Incomplete(f"field {name!r} is missing or empty")
        return text

    private = {}
    problem = needed(columns.problem)
    if columns.solution is not None:
        private["solution"] = needed(columns.solution)
    answer = (
        None
        if columns.answer is None
        else _text(place, columns.answer, row.get(columns.answer), numbers=True)
    )
    if answer is None and "solution" in private:
        answer = (last_boxed(private["solution"]) or "").strip() or None
        if answer is not None:
            counts["answers taken from the solution's last \\boxed{}"] += 1
    if answer is not None:
        private["answer"] = answer
    elif options.verifier != "none":
        where = f"field {columns.answer!r}" if columns.answer else f"field {options.answer_column!r}"
        raise _Incomplete(f"{where} is missing or empty and the solution has no \\boxed{{}}")
    for name, column in columns.extra.items():
        private[name] = needed(column)
    for name in columns.read:
        text = _text(place, name, row.get(name))
        if text is not None:
            private[name] = text
    tag = None if columns.tag is None else needed(columns.tag)
    return Record(key=f"{source.name}:{number}", problem=problem, private=private, tag=tag)


def _text(place: str, name: str, value: Any, numbers: bool = False) -> str | None:
    """The field as text, None if missing or blank. Numbers are taken for answers only."""
    if value is None or (
        isinstance(value, float) and math.isnan(value)
    ):  # what tables write where nothing is
        return None
    if numbers and isinstance(value, Real) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(
            f"{place}, field {name!r}: of type {type(value).__name__}, not a string; write it as one"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"character {error.start} is half a surrogate pair"
        raise UserError(f"{place}, field {name!r}: {what}; mend it") from error
    return value if value.strip() else None


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One row a problem, in an order that depends on the problems alone."""
    by_problem = {fingerprint(r.problem): r for r in reversed(records)}
    return [by_problem[f] for f in sorted(by_problem)]


def _listed(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{what}: {count}" for what, count in counts.items() if count) or "all are held out"


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> array[int]:
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return array("l", order)
