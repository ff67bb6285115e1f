"""World "chain": each step starts from the last result, so one wrong step spoils all that follow."""

from __future__ import annotations

import re
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import OPERATIONS, Calculator, Step, exact, written_steps

PROBLEM = re.compile(r"[0-9]([-+*@][0-9])+", re.ASCII)


def pose(rng: Random) -> str:
    """A start digit and four to six operations worked from left to right, as in ``7+5@9*8``."""
    count = rng.randint(4, 6)
    tail = "".join(f"{rng.choice(OPERATIONS)}{rng.randrange(10)}" for _ in range(count))
    return f"{rng.randrange(10)}{tail}"


def work(problem: str, calculate: Calculator) -> list[Step]:
    """The steps from left to right; the running value is whatever ``calculate`` gave last."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'chain': {problem!r} is no problem of it; write it as 7+5@9*8")
    value, steps = int(problem[0]), []
    for operation, digit in zip(problem[1::2], problem[2::2], strict=True):
        steps.append(Step(value, operation, int(digit), calculate(value, operation, int(digit))))
        value = steps[-1].result
    return steps


def final(steps: list[Step]) -> str:
    """The last running value alone."""
    return str(steps[-1].result)


def fault(steps: list[Step], answer: str, claim: str) -> str:
    """The first step of the answer that is worked out wrongly; if there is none, the right last value."""
    for written in written_steps(answer):
        right = exact(written.left, written.operation, written.right)
        if written.result != right:
            return f"{written.question} is {right}, not {written.result}"
    return f"the last value is {steps[-1].result}, not {claim}"
