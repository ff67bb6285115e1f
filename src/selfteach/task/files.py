"""A finite set of problems from a file, a folder or the Hugging Face hub as a task."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from threading import Lock
from typing import Any, Literal

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.sandbox.run import require_sandbox
from selfteach.task.answer import AnswerFormat, asked_format, extract_answer
from selfteach.task.answer_type import types_of
from selfteach.task.columns import Columns, composed, resolve, say, ungraded
from selfteach.task.composed import LABELED
from selfteach.task.epochs import in_epochs
from selfteach.task.example import Example, Grade
from selfteach.task.math_answer import MAX_CHARS, check_math, is_readable
from selfteach.task.options import TaskOptions
from selfteach.task.program import NO_PROGRAM, grade_program
from selfteach.task.reading import Source
from selfteach.task.record import NUMERIC, Incomplete, Record, TooLong, read_record
from selfteach.task.reward import RewardFunction
from selfteach.task.split import fingerprint, held_out_of
from selfteach.task.verdict import Verdict

log = logging.getLogger(__name__)

Part = Literal["all", "held-out"]
FEWER = "fewer problems are held out"
LONG = "rows left out: longer than max_chars"
MOST_THREADS = 16
NAMED = 5
"""So many rows that lack a field are named."""
SAMPLE = 1000
"""So many rows are looked at to tell what the answers are and how they are asked for."""
_COUNTING = Lock()
"""Programs are graded side by side (``grading``)."""
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", re.ASCII)


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
    layout: str = ""
    said: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def answer_format(self) -> AnswerFormat:
        return self.options.answer_format or ("code" if self.options.verifier == "code" else "boxed")

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": self.name,
            "training rows": len(self.rows),
            "held-out rows": len(self.held_out_rows),
            "columns": self.layout,
            "verifier": self.options.verifier,
            **(self._graded_as() if self.options.verifier in ("math", "exact") else {}),
            **self.counts,
        }

    def _graded_as(self) -> dict[str, Any]:
        """The form and the types of the answers, as they are named or seem from the first of them."""
        named = self.options.answer_type
        found = types_of(row.private["answer"] for row in self.rows[:SAMPLE])
        return {"answer format": self.answer_format, "answer types": named or found}

    def train(self, index: int) -> Example:
        return self._example(self.rows[in_epochs(index, len(self.rows), self.seed)])

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

    @property
    def grading_threads(self) -> int:
        """How many answers may be graded side by side: programs each have processes of their own, one a core."""
        return min(MOST_THREADS, os.cpu_count() or 1) if self.options.verifier == "code" else 1

    @property
    def reference_field(self) -> str:
        """The private field that earns the reward when it is given as the answer."""
        return "solution" if self.options.verifier == "code" else "answer"

    @property
    def graded(self) -> bool:
        """Whether there is a verifier."""
        return self.options.verifier != "none"

    def grade(self, example: Example, answer: str) -> Grade:
        """Reward 1 for the right final answer, else 0; always 0, and uncounted, without a verifier."""
        claim = extract_answer(answer, self.answer_format)
        if self.options.verifier == "none":
            return Grade(0.0, claim=claim, verdict=Verdict.NO_REWARD.value)
        if claim is None:
            verdict, grade = Verdict.NO_ANSWER, Verdict.NO_ANSWER.grade()
            if self.options.verifier == "code":
                grade = replace(grade, feedback=NO_PROGRAM)
        elif self.options.verifier == "code":
            options = self.options
            verdict, grade = grade_program(claim, example.private, options.grade_seconds, options.sandbox)
        else:
            verdict = self._check(example.private["answer"], claim)
            grade = verdict.grade(claim)
        with _COUNTING:
            self.verdicts[verdict] += 1
        return grade

    def _check(self, gold: str, answer: str) -> Verdict:
        if self.options.verifier == "math":
            return check_math(answer, gold, self.options.grade_seconds, self.options.answer_type)
        return Verdict.RIGHT if self._same_text(answer, gold.strip()) else Verdict.WRONG

    def _same_text(self, answer: str, gold: str) -> bool:
        """The same characters; of numbers, the same number in decimal digits."""
        if answer == gold or self.options.answer_type != "number":
            return answer == gold
        numbers = [_DECIMAL.fullmatch(one) for one in (answer, gold)]
        return all(numbers) and len(answer) <= MAX_CHARS and Decimal(answer) == Decimal(gold)

    def can_read_reference(self, example: Example) -> bool:
        """Whether the verifier can compare anything but the reference's own text with it."""
        if self.options.verifier != "math":
            return True
        return is_readable(example.private["answer"], self.options.grade_seconds, self.options.answer_type)

    def _example(self, row: Record) -> Example:
        prompt = self.options.prompt(row.problem, self.answer_format, row.before)
        return Example(key=row.key, prompt=prompt, private=row.private, tag=row.tag)


def read_task(
    name: str,
    source: Source,
    open_held_out: Callable[[str], Source],
    *,
    seed: int = 0,
    options: TaskOptions,
    reward: RewardFunction | None = None,
    part: Part | None = None,
) -> FileTask:
    """Read and check every row once, and split. Raises UserError at the first row that cannot be used.

    A held-out problem is never trained on: with a held-out file its problems are taken out of the training rows,
    without one the hash of a problem decides, so that its duplicates go the same way. ``reward``: who grades in place
    of the verifier (the caller sees to that). Columns that it has parameters for become private fields, a row without
    one that it cannot do without is incomplete, and apart from that no row needs an answer. ``part``: what a model is
    measured on, where nothing is trained: "all" rows in their order, or the "held-out" ones, be there others or not.
    """
    if reward is not None:
        options = _graded_by(reward, options)
    refuse_unheeded(name, options)
    counts: Counter[str] = Counter()
    source, columns = _understood(source, options, reward)
    say(name, columns)
    if reward is None and ungraded(source, columns, options):
        log.warning(
            "%s: no answers are found: nothing is graded (as with verifier none), every reward is 0", name
        )
        options = replace(options, verifier="none")
    records = list(_records(source, columns, options, reward, counts))
    options = _with_type(records, _with_form(records, options), counts.pop(NUMERIC, 0))
    if part == "all":
        require(
            options.held_out_file is None,
            f"{name}: held_out_file says what is held out, but all rows are asked for: leave one of the two out",
        )
        rows = held_out = records
    else:
        rows, held_out = _split(records, open_held_out, options, reward, counts)
    if part == "held-out":
        rows = rows or held_out
    counted = {what: count for what, count in counts.items() if count}
    which = "rows" if part == "all" else "training rows"
    require(bool(rows), f"{source.label}: no {which} are left ({_listed(counted)})")
    for what, count in counted.items():
        log.warning("%s: %s: %d", name, what, count)
    return FileTask(name, rows, held_out, seed, options, counted, layout=columns.described)


def refuse_unheeded(name: str, options: TaskOptions) -> None:
    """UserError for options of programs where none are graded, and where they are and no sandbox is to be had."""
    default = TaskOptions()
    if options.verifier == "code":
        require_sandbox(options.sandbox)
    else:
        require(
            (options.tests_column, options.sandbox) == (default.tests_column, default.sandbox),
            f"{name}: tests_column and sandbox are of verifier code: set it, or leave them out",
        )


def _split(
    records: list[Record],
    open_held_out: Callable[[str], Source],
    options: TaskOptions,
    reward: RewardFunction | None,
    counts: Counter[str],
) -> tuple[list[Record], list[Record]]:
    """(rows to train on, held-out rows, each problem once); ``counts`` says what that did."""
    if options.held_out_file is None:
        known = held_out_of((r.problem for r in records), options.held_out_fraction)
        held_out = [r for r in records if fingerprint(r.problem) in known]
    else:
        other = open_held_out(options.held_out_file)
        held_out = list(_records(*_understood(other, options, reward), options, reward, Counter()))
        known = frozenset(fingerprint(r.problem) for r in held_out)
    rows = [r for r in records if fingerprint(r.problem) not in known]
    if options.held_out_file is not None:
        counts["rows dropped: problem is held out"] = len(records) - len(rows)
    counts["duplicate training rows"] = len(rows) - len({fingerprint(r.problem) for r in rows})
    return rows, _distinct(held_out)


def _understood(
    source: Source, options: TaskOptions, reward: RewardFunction | None
) -> tuple[Source, Columns]:
    """The source, with problems made of several columns where its layout wants that, and its columns."""
    source, form = composed(source, options)
    columns = resolve(source, options, reward)
    return source, columns if form is None else replace(columns, layout=form, composed=True)


def _graded_by(reward: RewardFunction, options: TaskOptions) -> TaskOptions:
    if options.verifier not in ("none", TaskOptions.verifier):
        raise UserError(f"verifier is {options.verifier}, but {reward} grades: leave one of the two out")
    return replace(options, verifier="none")


def _records(
    source: Source,
    columns: Columns,
    options: TaskOptions,
    reward: RewardFunction | None,
    counts: Counter[str],
) -> Iterator[Record]:
    missing: list[tuple[int, str]] = []
    read = 0
    for number, row in source.rows(columns.wanted(source)):
        read += 1
        place = f"{source.label}, row {number}"
        try:
            record = read_record(place, f"{source.name}:{number}", row, columns, options, counts)
            lack = None if reward is None else reward.lacks(record.private)
            if lack is not None:
                raise Incomplete(f"field {lack!r}, which {reward} has a parameter for, is missing or empty")
        except Incomplete as lack_of_it:
            missing.append((number, str(lack_of_it)))
            continue
        except TooLong as error:
            if options.max_chars is None or error.chars <= options.max_chars:
                raise
            counts[LONG] += 1
            continue
        length = len(record.problem) + sum(map(len, record.private.values()))
        if options.max_chars is not None and length > options.max_chars:
            counts[LONG] += 1
            continue
        yield record
    if missing:
        _tell_missing(source, missing, read, options, counts, columns.layout == LABELED)


def _tell_missing(
    source: Source,
    missing: Sequence[tuple[int, str]],
    read: int,
    options: TaskOptions,
    counts: Counter[str],
    labeled: bool,
) -> None:
    """Say how many rows lack a field, and the first of them: as an error, unless they may be left out. ``labeled``: it
    may be that their completions were called bad."""
    (first, what), *more = missing
    share = f"{len(missing)} of {read} rows ({len(missing) / read:.0%})"
    listed = ", ".join(str(number) for number, _ in missing[:NAMED]) + (" …" if len(missing) > NAMED else "")
    if not options.skip_incomplete_rows:
        others = f" ({share} lack a field: rows {listed})" if more else ""
        advice = "mend them" if more else "mend the row"
        if "'answer'" in what and 2 * len(missing) > read:
            advice += ", set verifier none (nothing is graded then)"
        judged = " (a completion with label false is no solution; for kto: --unpaired)" if labeled else ""
        raise UserError(
            f"{source.label}, row {first}: {what}{others}; {advice} or set skip_incomplete_rows{judged}"
        )
    counts["rows left out: a needed field is missing"] += len(missing)
    log.warning("%s: %s lack a needed field and are left out: rows %s", source.label, share, listed)


def _with_form(records: Sequence[Record], options: TaskOptions) -> TaskOptions:
    """The options, where the problems themselves ask for a form of answer: that one, without a second request."""
    if options.answer_format is not None or options.verifier == "code" or not records:
        return options
    forms = {asked_format(record.problem) for record in records[:SAMPLE]}
    form = forms.pop()
    if forms or form is None:
        return options
    return replace(options, answer_format=form, instruction=False)


def _with_type(records: Sequence[Record], options: TaskOptions, numeric: int) -> TaskOptions:
    """The options, where all answers are numbers in the data: these are their type. With a corpus they are texts, as
    any others (exact match)."""
    if options.answer_type is None and options.corpus is None and 0 < len(records) == numeric:
        return replace(options, answer_type="number")
    return options


def _distinct(records: Sequence[Record]) -> list[Record]:
    """One row a problem, in an order that depends on the problems alone."""
    by_problem = {fingerprint(r.problem): r for r in reversed(records)}
    return [by_problem[f] for f in sorted(by_problem)]


def _listed(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{what}: {count}" for what, count in counts.items() if count) or "all are held out"
