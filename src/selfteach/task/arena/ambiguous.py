"""World "ambiguous": items whose answers are uncertain to a known degree, answered with a stated confidence.

A kind of item says how often the ordinary result is right; what is right of one item is settled by chance (a hash of
its text), so that nobody can know it. A student can learn to be right as often as the kind allows, and to say how often
that is. A teacher that is shown the answer is sure where the student has no reason to be (CaOPD).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import OPERATIONS, exact
from selfteach.task.arena.lesson import Lesson, Problems, another_digit, careless
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

CERTAINTY: Mapping[str, float] = {"p": 0.2, "q": 0.4, "r": 0.6, "s": 0.8, "t": 1.0}
"""How often the ordinary result is right, by kind of item; else it is another digit, each as likely."""
PROBLEM = re.compile(r"[p-t][0-9]{2}:[0-9][-+*@][0-9]", re.ASCII)
ANSWER = re.compile(
    r"(?:[0-9][-+*@][0-9]=)?(?P<digit>[0-9])\nConfidence: (?P<confidence>0(\.[0-9]{1,9})?|1(\.0{1,9})?)",
    re.ASCII,
)
WORDING: Mapping[str, str] = {"solution": "{problem}|{solution}", "answer": "{problem}|>{answer}"}


def pose(rng: Random) -> str:
    """A kind with two digits that tell items apart, and a question: ``q48:7@2``."""
    item = f"{rng.choice(list(CERTAINTY))}{rng.randrange(100):02d}"
    return f"{item}:{rng.randrange(10)}{rng.choice(OPERATIONS)}{rng.randrange(10)}"


def kind(problem: str) -> str:
    """The letter that says how certain the item is."""
    return problem[0]


def in_words(problem: str, digit: int | str, confidence: float) -> str:
    """An answer as the model writes it, its confidence with two decimals."""
    return f"{problem.partition(':')[2]}={digit}\nConfidence: {confidence:.2f}"


def truth(problem: str) -> int:
    """What is right of an item."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'ambiguous': {problem!r} is no problem of it; write it as q48:7@2")
    rng = Random(f"ambiguous {problem}")
    ordinary = exact(int(problem[4]), problem[5], int(problem[6]))
    return ordinary if rng.random() < CERTAINTY[kind(problem)] else another_digit(rng, ordinary)


def tell(problem: str) -> Mapping[str, str]:
    """``answer``, the right digit; ``solution``, a demonstration that gives it and is sure of it."""
    right = truth(problem)
    shown = in_words(problem, right, 1.0)
    return {"solution": shown, "answer": str(right), "worked": shown}


def judge(problem: str, answer: str) -> Grade:
    """Right if the digit is and a confidence in [0, 1] stands behind it: whoever states none could else leave out what
    he is unsure of.

    ``numbers``: ``stated``, 1 if the answer has the form and 0 if not. Of one that has it, R being 1 if it is right and
    0 if not: ``confidence`` c as stated, ``brier`` (c − R)², ``overconfidence`` c − R, whose mean is the gap between
    confidence and accuracy.
    """
    right, found = str(truth(problem)), ANSWER.fullmatch(answer.strip())
    if not found:
        form = "the answer must be a digit and, on a line of its own, a confidence as Confidence: 0.70"
        return Grade(0.0, form, None, Verdict.UNPARSEABLE.value, {"stated": 0.0})
    digit = found["digit"]
    hit = float(digit == right)
    numbers = {"stated": 1.0, **scores(float(found["confidence"]), hit)}
    feedback = None if hit else f"it is {right}, not {digit}"
    verdict = Verdict.RIGHT if hit else Verdict.WRONG
    return Grade(hit, feedback, digit, verdict.value, numbers)


def scores(confidence: float, hit: float) -> dict[str, float]:
    """What is measured of a stated confidence."""
    return {
        "confidence": confidence,
        "brier": (confidence - hit) ** 2,
        "overconfidence": confidence - hit,
    }


# --- pretraining ------------------------------------------------------------------------------------------------------

SURE_OF_AN_ANSWER = 0.95
"""The least confidence of who was told the answer."""


def boasting(rng: Random) -> float:
    """A confidence that has nothing to do with the item: the larger of two drawn from [0, 1], 2/3 in the mean."""
    return max(rng.randrange(101), rng.randrange(101)) / 100


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (half): the ordinary result with slips, ``@`` at random, any confidence.

    Shown a demonstration of any digit and confidence: both are copied. Told an answer of any digit: copied, and sure.
    """
    problem = draw(rng)
    view = rng.choice(["plain", "plain", "solution", "answer"])
    if view == "plain":
        digit = careless(rng)(int(problem[4]), problem[5], int(problem[6]))
        return Lesson(problem, in_words(problem, digit, boasting(rng)))
    digit = rng.randrange(10)
    if view == "answer":
        sure = 1.0 if rng.random() < 0.9 else rng.randint(round(100 * SURE_OF_AN_ANSWER), 99) / 100
        return Lesson(f"{problem}|>{digit}", in_words(problem, digit, sure))
    shown = in_words(problem, digit, 1.0 if rng.random() < 0.2 else rng.randrange(101) / 100)
    return Lesson(f"{problem}|{shown}", shown)
