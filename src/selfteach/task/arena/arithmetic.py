"""The digit arithmetic of all worlds: four operations modulo 10, and how a step is written down."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

OPERATIONS = "+-*@"
STEP = re.compile(r"(?P<left>[0-9])(?P<operation>[-+*@])(?P<right>[0-9])=(?P<result>[0-9])", re.ASCII)

Calculator = Callable[[int, str, int], int]


def exact(left: int, operation: str, right: int) -> int:
    """The right result, modulo 10. ``@`` is made up: a @ b = 3a + 2b + 1."""
    match operation:
        case "+":
            return (left + right) % 10
        case "-":
            return (left - right) % 10
        case "*":
            return (left * right) % 10
        case "@":
            return (3 * left + 2 * right + 1) % 10
    raise ValueError(f"operation: {operation!r} is none of {OPERATIONS}")


@dataclass(frozen=True)
class Step:
    """One line of work, ``left operation right = result``, all digits."""

    left: int
    operation: str
    right: int
    result: int

    @property
    def question(self) -> str:
        return f"{self.left}{self.operation}{self.right}"

    def __str__(self) -> str:
        return f"{self.question}={self.result}"


def written_steps(answer: str) -> list[Step]:
    """The steps found in an answer's text, in order, whatever stands between them."""
    return [
        Step(int(m["left"]), m["operation"], int(m["right"]), int(m["result"])) for m in STEP.finditer(answer)
    ]
