"""World "table": independent sub-questions, one digit each; knowing a result tells nothing about the next."""

from __future__ import annotations

import re
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import OPERATIONS, Calculator, Step

PROBLEM = re.compile(r"[0-9][-+*@][0-9](;[0-9][-+*@][0-9])*", re.ASCII)


def pose(rng: Random) -> str:
    """Three to five sub-questions, as in ``7+5;2@9;4*8``."""
    count = rng.randint(3, 5)
    return ";".join(f"{rng.randrange(10)}{rng.choice(OPERATIONS)}{rng.randrange(10)}" for _ in range(count))


def pose_known(rng: Random) -> str:
    """The same without the made-up operation."""
    while "@" in (problem := pose(rng)):
        pass
    return problem


def work(problem: str, calculate: Calculator) -> list[Step]:
    """Each sub-question with the result that ``calculate`` gives it."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'table': {problem!r} is no problem of it; write sub-questions as 7+5;2@9;4*8")
    questions = [(int(part[0]), part[1], int(part[2])) for part in problem.split(";")]
    return [Step(*question, calculate(*question)) for question in questions]


def final(steps: list[Step]) -> str:
    """All results in order: a right answer needs every one of them."""
    return "".join(str(step.result) for step in steps)


def fault(steps: list[Step], answer: str, claim: str) -> str:
    """The sub-questions whose claimed result is wrong, each with the right one."""
    return "; ".join(
        f"{step.question} is {step.result}, not {digit}"
        for step, digit in zip(steps, claim, strict=True)
        if str(step.result) != digit
    )
