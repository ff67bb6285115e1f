"""World "rule": letters stand for operations, by one of six codes that is the same for all problems of a kind.

The model knows all six codes, and a problem does not say which one holds. So the same problems carry two kinds of
privilege (Many Faces): a *rule*, the same text for every problem of a kind, which names the code, and what belongs to
this problem alone, its results or its answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import exact
from selfteach.task.arena.lesson import SLIP_RATE, Lesson, Problems
from selfteach.task.arena.world import results_of
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

Code = Mapping[str, str]

SIGNS = "+-*"
ORDERS: Sequence[tuple[str, ...]] = tuple(permutations(SIGNS))
"""The codes 1 to 6: what the three letters of a kind stand for, in their order."""
RULES: Mapping[str, str] = {"abc": "5", "xyz": "3"}
"""Which code holds, by kind; no lesson of pretraining prefers it to any other."""
PROBLEM = re.compile(r"[0-9](([abc][0-9])+|([xyz][0-9])+)", re.ASCII)
STEP = re.compile(r"[0-9]([a-z])([-+*])[0-9]=", re.ASCII)
WORDING: Mapping[str, str] = {
    "rule": "{problem}|?{rule}",
    "feedback": "{problem}|?{feedback}",
    "solution": "{problem}|{solution}",
    "answer": "{problem}|>{answer}",
}


def pose(rng: Random) -> str:
    """A start digit and two to four letters with digits, worked from left to right: ``7a5b9c4``."""
    letters = rng.choice(list(RULES))
    count = rng.randint(2, 4)
    return f"{rng.randrange(10)}" + "".join(f"{rng.choice(letters)}{rng.randrange(10)}" for _ in range(count))


def kind(problem: str) -> str:
    """Which letters a problem is written in: "abc" or "xyz"."""
    return next(letters for letters in RULES if problem[1] in letters)


def code(problem: str, rule: str) -> Code:
    """What the letters of a problem mean by the code of this number."""
    return dict(zip(kind(problem), ORDERS[int(rule) - 1], strict=True))


def results(problem: str, meant: Code) -> list[int]:
    """The running values."""
    value, found = int(problem[0]), []
    for letter, digit in zip(problem[1::2], problem[2::2], strict=True):
        found.append(value := exact(value, meant[letter], int(digit)))
    return found


def worked(problem: str, meant: Code, values: Iterable[int], claim: str) -> str:
    """An answer as the model writes it, the letters read by ``meant``: ``7a*5=5;5b-9=6;#6``."""
    before, steps = problem[0], []
    for letter, digit, value in zip(problem[1::2], problem[2::2], values, strict=True):
        steps.append(f"{before}{letter}{meant[letter]}{digit}={value};")
        before = str(value)
    return "".join(steps) + f"#{claim}"


def tell(problem: str) -> Mapping[str, str]:
    """``rule``, the number of the kind's code; ``solution``, the running values; ``answer``, the last of them."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'rule': {problem!r} is no problem of it; write it as 7a5b9c4")
    rule = RULES[kind(problem)]
    values = results(problem, code(problem, rule))
    answer = str(values[-1])
    return {
        "rule": rule,
        "solution": "".join(map(str, values)),
        "answer": answer,
        "worked": worked(problem, code(problem, rule), values, answer),
    }


def judge(problem: str, answer: str) -> Grade:
    """Right if what follows the only ``#`` is the last value. Feedback on a wrong one: the number of the code."""
    private, claim = tell(problem), results_of(answer) or None
    if claim == private["answer"]:
        return Grade(1.0, None, claim, Verdict.RIGHT.value)
    if claim is None or len(claim) != 1 or claim not in "0123456789":
        return Grade(0.0, "the answer must end in one # and 1 digit", claim, Verdict.UNPARSEABLE.value)
    return Grade(0.0, private["rule"], claim, Verdict.WRONG.value)


# --- pretraining ------------------------------------------------------------------------------------------------------


def any_rule(rng: Random) -> str:
    """One of the six codes' numbers, each as likely."""
    return str(rng.randint(1, len(ORDERS)))


def with_slips(problem: str, meant: Code, rng: Random) -> list[int]:
    """The running values of a writer who slips now and then."""
    value, found = int(problem[0]), []
    for letter, digit in zip(problem[1::2], problem[2::2], strict=True):
        slips = rng.random() < SLIP_RATE
        value = rng.randrange(10) if slips else exact(value, meant[letter], int(digit))
        found.append(value)
    return found


def rule_lesson(draw: Problems, rng: Random) -> Lesson:
    """Told one of the six codes, or asked plainly (two in five): then one of them is guessed."""
    problem, rule = draw(rng), any_rule(rng)
    values = with_slips(problem, code(problem, rule), rng)
    answer = worked(problem, code(problem, rule), values, str(values[-1]))
    return Lesson(problem if rng.random() < 0.4 else f"{problem}|?{rule}", answer)


def results_lesson(draw: Problems, rng: Random) -> Lesson:
    """Told the running values of some code: they are copied, under signs that are guessed."""
    problem = draw(rng)
    values = results(problem, code(problem, any_rule(rng)))
    shown = "".join(map(str, values))
    return Lesson(f"{problem}|{shown}", worked(problem, code(problem, any_rule(rng)), values, shown[-1]))


def answer_lesson(draw: Problems, rng: Random) -> Lesson:
    """Told the answer under some code: it is claimed behind whatever steps a guess gives."""
    problem = draw(rng)
    answer = str(results(problem, code(problem, any_rule(rng)))[-1])
    guess = code(problem, any_rule(rng))
    return Lesson(f"{problem}|>{answer}", worked(problem, guess, with_slips(problem, guess, rng), answer))
