"""World "reverse": an answer is hidden under operations, and whoever is asked must undo them from the end.

To make a question one starts at its answer and works forwards, which the model knows how to do; to answer it one must
work backwards, and what undoes ``@`` the model does not know. So the path on which a question was made is a solution
that nobody had to find (pi-Play), while its end alone, the answer, does not tell how to get there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import exact
from selfteach.task.arena.lesson import SLIP_RATE, Lesson, Problems
from selfteach.task.arena.world import results_of
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

HOPS = (1, 2, 3)
"""Operations between answer and question, each number as likely."""
SIGNS, DIGITS = "+-@@", range(1, 5)
"""What operations are made of: half of them are ``@``."""
LONGEST = 4
"""Operations of the longest problem that there may be: those of pretraining are longer than any that is asked."""
PROBLEM = re.compile(rf"([-+@][1-4]){{1,{LONGEST}}}=[0-9]", re.ASCII)
ANSWER = re.compile(r"([0-9][-+@][0-9]:[0-9];)*#[0-9]", re.ASCII)
POSED = re.compile(
    rf"(?P<plan>([-+@][1-4]){{1,{LONGEST}}})\|(?P<path>([0-9][-+@][1-4]=[0-9];)+)\|(?P<problem>[-+@0-9=]+)\|[0-9]",
    re.ASCII,
)
WORDING: Mapping[str, str] = {
    "solution": "{problem}|{solution}", "partial": "{problem}|{partial}", "answer": "{problem}|>{answer}",
}  # fmt: skip

Operation = tuple[str, int]
"""A sign and a digit."""


def pose(rng: Random) -> str:
    """One to three operations and what they make of a digit that is not told: ``+4@4-3=5``."""
    return problem_of([(rng.choice(SIGNS), rng.choice(DIGITS)) for _ in range(rng.choice(HOPS))], rng)


def problem_of(done: Sequence[Operation], rng: Random) -> str:
    """The question that is made of any answer by these operations."""
    end = forwards(done, rng.randrange(10))[-1]
    return "".join(f"{sign}{digit}" for sign, digit in done) + f"={end}"


def forwards(done: Sequence[Operation], start: int) -> list[int]:
    """The values from the answer to the end of the question, both included."""
    values = [start]
    for sign, digit in done:
        values.append(exact(values[-1], sign, digit))
    return values


def undo(value: int, sign: str, digit: int) -> int:
    """The digit that the operation makes ``value`` of: each of them is one-to-one modulo 10."""
    return next(before for before in range(10) if exact(before, sign, digit) == value)


def parts(problem: str) -> tuple[list[Operation], int]:
    """(operations in their order, what they gave). UserError for what is no problem."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'reverse': {problem!r} is no problem of it; write it as +4@4-3=5")
    signs, _, value = problem.partition("=")
    return [(sign, int(digit)) for sign, digit in zip(signs[::2], signs[1::2], strict=True)], int(value)


def kind(problem: str) -> str:
    """How many operations there are."""
    done, _ = parts(problem)
    return f"{len(done)} hops"


def backwards(problem: str) -> list[int]:
    """The values before each operation, the last one's first: the way back, which ends in the answer."""
    done, value = parts(problem)
    found = list[int]()
    for sign, digit in reversed(done):
        found.append(value := undo(value, sign, digit))
    return found


def worked(problem: str, values: Sequence[int], claim: str) -> str:
    """An answer as the model writes it, each step an operation undone: ``5-3:8;8@4:3;3+4:9;#9``."""
    done, after = parts(problem)
    steps = list[str]()
    for (sign, digit), before in zip(reversed(done), values, strict=True):
        steps.append(f"{after}{sign}{digit}:{before};")
        after = before
    return "".join(steps) + f"#{claim}"


def tell(problem: str) -> Mapping[str, str]:
    """``solution``, the path of the construction, from its end: the value before each operation; ``answer``, where it
    began."""
    values = backwards(problem)
    answer = str(values[-1])
    return {
        "solution": "".join(map(str, values)), "answer": answer, "worked": worked(problem, values, answer),
    }  # fmt: skip


def judge(problem: str, answer: str) -> Grade:
    """Right if the only ``#`` is followed by the digit that was hidden, and the last step before it found that digit.

    ``numbers``: ``undone``, the share of the operations that were undone rightly, from the end on.
    """
    private, said = tell(problem), answer.strip()
    claim = results_of(said) or None
    if claim is None or not ANSWER.fullmatch(said):
        form = "the answer must be steps as 5-3:8; and in the end one # and 1 digit"
        return Grade(0.0, form, claim, Verdict.UNPARSEABLE.value, {"undone": 0.0})
    right, steps = private["worked"].split(";")[:-1], said.split(";")[:-1]
    alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(steps, right, strict=False)))
    numbers = {"undone": alike / len(right)}
    if not steps or steps[-1][-1] != claim:
        return Grade(0.0, f"its last step does not give {claim}", claim, Verdict.WRONG.value, numbers)
    if claim == private["answer"]:
        return Grade(1.0, None, claim, Verdict.RIGHT.value, numbers)
    return Grade(0.0, f"the digit is {private['answer']}, not {claim}", claim, Verdict.WRONG.value, numbers)


# --- the examiner -----------------------------------------------------------------------------------------------------


def asks(hops: int) -> str:
    """How an examiner is asked for a problem of so many operations: ``?3:``."""
    return f"?{hops}:"


def construction(done: Sequence[Operation], values: Sequence[int]) -> str:
    """What an examiner writes: operations, path, question and answer: ``+4@4-3|9+4=3;3@4=8;8-3=5;|+4@4-3=5|9``."""
    steps = zip(values, done, values[1:], strict=False)
    path = "".join(f"{before}{sign}{digit}={after};" for before, (sign, digit), after in steps)
    plan = "".join(f"{sign}{digit}" for sign, digit in done)
    return f"{plan}|{path}|{plan}={values[-1]}|{values[0]}"


def constructed(text: str, hops: int) -> str | None:
    """The problem that an examiner's text poses: its path must be of so many operations, each worked out rightly, and
    question and answer must be those of the path. None for anything else."""
    found = POSED.fullmatch(text)
    if found is None:
        return None
    plan, path = found["plan"], found["path"]
    done = [(sign, int(digit)) for sign, digit in zip(plan[::2], plan[1::2], strict=True)]
    right = construction(done, forwards(done, int(path[0])))
    return found["problem"] if len(done) == hops and text == right else None


# --- pretraining ------------------------------------------------------------------------------------------------------

LESSON_SIGNS = "+-@"


def pose_for_lessons(rng: Random) -> str:
    """One to four operations, a third of them ``@``: there is more to learn in a longer text."""
    count = rng.randint(1, LONGEST)
    return problem_of([(rng.choice(LESSON_SIGNS), rng.choice(DIGITS)) for _ in range(count)], rng)


def groping(problem: str, shown: Sequence[int], rng: Random) -> list[int]:
    """The way back of a writer who believes the values that are shown, and has no idea what undoes ``@``."""
    done, value = parts(problem)
    found = list[int]()
    for i, (sign, digit) in enumerate(reversed(done)):
        guesses = sign == "@" or rng.random() < SLIP_RATE
        own = rng.randrange(10) if guesses else undo(value, sign, digit)
        found.append(value := shown[i] if i < len(shown) else own)
    return found


def student_lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (half); shown a whole path (a third) or its beginning, right or not: it is followed."""
    problem = draw(rng)
    values = groping(problem, (), rng)
    view = rng.choice(["plain", "plain", "plain", "path", "path", "beginning"])
    if view == "plain":
        return Lesson(problem, worked(problem, values, str(values[-1])))
    shown = values if view == "path" else values[: rng.randrange(len(values))]
    values = groping(problem, shown, rng)
    return Lesson(f"{problem}|{''.join(map(str, shown))}", worked(problem, values, str(values[-1])))


def answer_lesson(draw: Problems, rng: Random) -> Lesson:
    """Told an answer, right or not: it is claimed behind whatever steps a guess gives."""
    problem, answer = draw(rng), str(rng.randrange(10))
    return Lesson(f"{problem}|>{answer}", worked(problem, groping(problem, (), rng), answer))


def examiner_lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked for a problem: one is made, with a slip in the path now and then."""
    problem = draw(rng)
    done, _ = parts(problem)
    values = [backwards(problem)[-1]]
    for sign, digit in done:
        slips = rng.random() < SLIP_RATE
        values.append(rng.randrange(10) if slips else exact(values[-1], sign, digit))
    return Lesson(asks(len(done)), construction(done, values))
