"""Whether a task's references can earn anything: a run whose rewards are all 0 should not begin in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from selfteach.errors import UserError
from selfteach.task.answer import INSTRUCTION, write_answer
from selfteach.task.environment import environment_of
from selfteach.task.example import Example, Task

SHOWN = 3
"""So many of the examples at fault are named."""
CUT = 60
BARE = "{}"
SURE = f"{BARE}\nConfidence: 1.00"
FORMS = tuple(dict.fromkeys((BARE, *(write_answer(BARE, form) for form in INSTRUCTION), f"#{BARE}", SURE)))
"""What is tried where nothing says in which form answers are wanted; the last two are the arena's."""
ANSWER = "answer"
"""The private field that is the reference, where a task does not name another (``reference_field``)."""
NO_PROGRAMS = ("pass", "raise SystemExit(0)")
"""Programs that pass no test."""
WORKED = "worked"
"""Tried behind these: the private field of this name, where it ends in the answer (a world that wants the steps)."""


@dataclass(frozen=True)
class Fault:
    """One reference at fault: of which example, what it is, and what happened."""

    key: str
    reference: str
    what: str

    def __str__(self) -> str:
        one_line, what = " ".join(self.reference.split()), "; ".join(self.what.splitlines())
        return f"{self.key} ({one_line if len(one_line) <= CUT else one_line[:CUT] + '…'}: {what})"


@dataclass(frozen=True)
class Report:
    """What ``check_references`` found, over ``examples`` examples of which ``references`` have a reference answer.

    ``unreadable``: references that the verifier can compare with nothing · ``unpaid``: references that do not earn 1
    when they are given as the answer, in the form asked for · ``overpaid``: wrong answers, of the ``tried`` many, that
    earn as much as a right one. ``graded``: whether anything is graded here. ``episodes``: nothing is, since an
    environment rewards each turn. ``form``: how answers were given,
    with {} for the answer. ``certain``: whether that is known to be the form that earns; a reward function or task of
    the user's own may want another, so that what it does not pay is a hint and no more.
    """

    task: str
    form: str
    examples: int
    references: int
    graded: bool = True
    episodes: bool = False
    certain: bool = True
    unreadable: Sequence[Fault] = ()
    unpaid: Sequence[Fault] = ()
    overpaid: Sequence[Fault] = ()
    tried: int = 0
    programs: bool = False
    """Whether answers are programs, and references solutions that their tests must let pass."""

    @property
    def dead(self) -> bool:
        """Whether it is certain that no answer earns a reward: nothing can be learned from this one.

        A reference that cannot be read would be earned by its own text, which no model writes.
        """
        lost = {fault.key for fault in (*self.unpaid, *self.unreadable)}
        return self.graded and self.certain and 0 < self.references == len(lost)

    @property
    def fine(self) -> bool:
        return not (self.unreadable or self.unpaid or self.overpaid)

    @property
    def readable_share(self) -> float:
        """Share of the references that can be read, 1 where there are none."""
        return 1 - len(self.unreadable) / self.references if self.references else 1.0

    @property
    def sentences(self) -> list[str]:
        """What to tell the user, a line each; the first says how things stand."""
        if self.episodes:
            return [f"{self.task}: an environment rewards each turn, no answer is graded by itself"]
        if not self.graded:
            return [f"{self.task}: nothing is graded (verifier none): every reward is 0"]
        if not self.references:
            return [
                f"{self.task}: no reference answers in {self.examples} examples: the verifier alone says what is right"
            ]
        form = "" if self.form == BARE else f", given as {self.form.replace(BARE, '7', 1)},"
        form = ", at the end of their worked answers," if self.form == WORKED else form
        right = self.references - len(self.unpaid)
        said = [f"{self.task}: {right} of {self.references} reference answers{form} earn the reward"]
        for faults, what, todo in (
            (self.unreadable, "cannot be read", "mend them, name answer_type, or choose verifier exact"),
            (
                self.unpaid,
                "earn nothing",
                "see what the tests ask, and how long they may take"
                if self.programs
                else "see answer_format, answer_column and verifier"
                if self.certain
                else "see what the reward looks for",
            ),
            (
                self.overpaid,
                "accept a wrong answer",
                "let the tests assert something"
                if self.programs
                else "name answer_type, or choose verifier exact",
            ),
        ):
            if faults:
                first = "; ".join(map(str, faults[:SHOWN]))
                said.append(
                    f"{self.task}: {len(faults)} of {self.references} references {what}: {first}; {todo}"
                )
        return said


def check_references(task: Task, examples: Iterable[Example]) -> Report:
    """Grade the references of ``examples``, and answers that are surely wrong, as a run would grade a model's.

    For each example with a private field ``answer``: whether the verifier can read it (tasks with
    ``can_read_reference``), whether the very reference earns a reward of 0.5 or more in the form that is asked for, and
    whether the reference of another example and a changed one earn less. The task's counts of verdicts stay as they
    were. Costs three checks an example. Of a task whose problems are episodes nothing is graded.
    """
    listed = list(examples)
    name = getattr(task, "reference_field", ANSWER)
    held = list({one.key: one for one in listed if one.private.get(name, "").strip()}.values())
    if environment_of(task) is not None:
        return Report(task.name, BARE, len(listed), len(held), graded=False, episodes=True)
    certain, form = _form(task, held)
    if not _grades(task):
        return Report(task.name, form, len(listed), len(held), graded=False, certain=certain)
    found = _Faults()
    with _counts_kept(task.verdicts):
        for i, example in enumerate(held):
            others = NO_PROGRAMS if name != ANSWER else _others(held, i)
            _check(task, example, example.private[name], others, form, found)
    return Report(
        task.name,
        form,
        len(listed),
        len(held),
        certain=certain,
        unreadable=found.unreadable,
        unpaid=found.unpaid,
        overpaid=found.overpaid,
        tried=found.tried,
        programs=name != ANSWER,
    )


@dataclass
class _Faults:
    unreadable: list[Fault] = field(default_factory=list)
    unpaid: list[Fault] = field(default_factory=list)
    overpaid: list[Fault] = field(default_factory=list)
    tried: int = 0


def _check(
    task: Task, example: Example, reference: str, others: Sequence[str], form: str, found: _Faults
) -> None:
    reads = getattr(task, "can_read_reference", None)
    if reads is not None and not reads(example):
        found.unreadable.append(Fault(example.key, reference, "not read as an answer"))
    grade = task.grade(example, _written(example, reference, form))
    if not grade.correct:
        found.unpaid.append(Fault(example.key, reference, grade.feedback or f"reward {grade.reward:g}"))
        return
    for wrong in others:
        found.tried += 1
        if task.grade(example, _written(example, wrong, form)).correct:
            found.overpaid.append(Fault(example.key, reference, f"{wrong[:CUT]} is right too"))
            return


def _form(task: Task, held: Sequence[Example]) -> tuple[bool, str]:
    """(whether it is the one that is asked for, the form in which references are given).

    A user's own reward or task does not say: for it, the first form in which the first reference earns something.
    """
    asked = getattr(task, "answer_format", None)
    if getattr(task, "reference_field", ANSWER) != ANSWER:
        return True, BARE
    if asked in INSTRUCTION and getattr(task, "reward", None) is None:
        return True, write_answer(BARE, asked)
    if held and _grades(task):
        with _counts_kept(task.verdicts):
            own = held[0].private
            worked = [WORKED] if own.get("worked", "").endswith(own["answer"]) else []
            for form in (*FORMS, *worked):
                if task.grade(held[0], _written(held[0], own["answer"], form)).correct:
                    return False, form
    return False, BARE


def _written(example: Example, answer: str, form: str) -> str:
    """An answer in a form; in that of ``WORKED`` the example's worked answer, which ends in this one."""
    if form == WORKED:
        return example.private["worked"].removesuffix(example.private["answer"]) + answer
    return form.replace(BARE, answer, 1)


def _grades(task: Task) -> bool:
    options, reward = getattr(task, "options", None), getattr(task, "reward", None)
    return reward is not None or getattr(options, "verifier", None) != "none"


def _others(held: Sequence[Example], i: int) -> list[str]:
    """Wrong answers: a changed one, and the next reference that is surely another, with other digits or words."""
    reference = held[i].private[ANSWER]
    own = _core(reference)
    following = (held[(i + step) % len(held)].private[ANSWER] for step in range(1, len(held)))
    other = next((one for one in following if _surely_other(_core(one), own)), None)
    return [one for one in (perturbed(reference), other) if one is not None]


def _core(answer: str) -> str:
    return re.sub(r"\W+|_", "", answer).casefold()


def _surely_other(one: str, own: str) -> bool:
    """Two whole numbers, or two words: other spellings of these are other answers."""
    alike = (one.isdigit() and own.isdigit()) or (one.isalpha() and own.isalpha())
    return alike and one.lstrip("0") != own.lstrip("0")


def perturbed(answer: str) -> str | None:
    """A wrong answer of the same kind: another last digit, another option, another word; None if there is none."""
    digits = [match.start() for match in re.finditer(r"\d", answer)]
    if digits:
        at = digits[-1]
        return f"{answer[:at]}{(int(answer[at]) + 1) % 10 or 1}{answer[at + 1 :]}"
    letter = re.fullmatch(r"(\W*)([A-Ja-j])(\W*)", answer.strip())
    if letter:
        before, one, after = letter.groups()
        return f"{before}{chr(ord(one) + (1 if one.lower() < 'j' else -1))}{after}"
    return f"not {answer}" if re.fullmatch(r"[\w\s]+", answer) else None


@contextmanager
def _counts_kept(counts: Mapping[Any, int]) -> Iterator[None]:
    """What is graded here is no part of a run."""
    before = Counter(dict(counts))
    try:
        yield
    finally:
        if isinstance(counts, MutableMapping):
            counts.clear()
            counts.update(before)


def require_references(task: Task, examples: Iterable[Example]) -> Report:
    """``check_references``, with a UserError where no reference earns anything."""
    report = check_references(task, examples)
    if report.dead:
        raise UserError(" ".join(report.sentences[1:2]) or report.sentences[0])
    return report
