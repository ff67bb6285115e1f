"""What pretraining text is made of: lessons, and the writers who know this and not that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from selfteach.task.arena.arithmetic import Calculator, exact
from selfteach.task.example import Message

SLIP_RATE = 0.02


@dataclass(frozen=True)
class Lesson:
    """One conversation of pretraining text; the loss is on ``answer`` and the end mark behind it.

    ``given`` is how the assistant's turn already begins: read, never learned to write. ``further``: what an environment
    said to the answer and what was answered then, and so on; the loss is on these answers too.
    """

    question: str
    answer: str
    given: str = ""
    further: tuple[tuple[str, str], ...] = ()

    @property
    def messages(self) -> list[Message]:
        return [
            Message(role="user", content=self.question),
            Message(role="assistant", content=self.given + self.answer),
            *(
                Message(role=role, content=words)
                for exchange in self.further
                for role, words in zip(("user", "assistant"), exchange, strict=True)
            ),
        ]

    @property
    def learned(self) -> int:
        """The characters in the loss, each answer's end mark counted as one."""
        return sum(len(words) + 1 for words in (self.answer, *(answer for _, answer in self.further)))


def in_turns(question: str, turns: Sequence[str], answers: Sequence[str]) -> Lesson:
    """An episode as a lesson: each of the turns, and what each but the last was answered."""
    return Lesson(question, turns[0], further=tuple(zip(answers, turns[1:], strict=True)))


Writer = Callable[[Random], Lesson]
Problems = Callable[[Random], str]
"""Draws a problem that is not held out."""


def careless(rng: Random, slip_rate: float = SLIP_RATE) -> Calculator:
    """A writer of plain text: slips now and then, and has no idea what ``@`` means."""

    def calculate(left: int, operation: str, right: int) -> int:
        guess = operation == "@" or rng.random() < slip_rate
        return rng.randrange(10) if guess else exact(left, operation, right)

    return calculate


def unsure_of(operation: str, share: float, otherwise: Calculator, rng: Random) -> Calculator:
    """A writer who works one operation rightly in a share of the cases, and else as another would."""

    def calculate(left: int, sign: str, right: int) -> int:
        known = sign == operation and rng.random() < share
        return (exact if known else otherwise)(left, sign, right)

    return calculate


def sure_of(operation: str, otherwise: Calculator) -> Calculator:
    """A writer who works one operation rightly."""

    def calculate(left: int, sign: str, right: int) -> int:
        return (exact if sign == operation else otherwise)(left, sign, right)

    return calculate


def told(results: Iterable[str | None], otherwise: Calculator) -> Calculator:
    """A writer who believes the results it is told, step by step; None, or no more of them: on its own."""
    shown = iter(results)

    def calculate(left: int, operation: str, right: int) -> int:
        result = next(shown, None)
        return otherwise(left, operation, right) if result is None else int(result)

    return calculate


def corrected(wrong: Iterable[str], otherwise: Calculator) -> Calculator:
    """A writer who was told which questions (as ``2@9``) it had answered wrongly, and what is right there."""
    named = set(wrong)

    def calculate(left: int, operation: str, right: int) -> int:
        known = f"{left}{operation}{right}" in named
        return (exact if known else otherwise)(left, operation, right)

    return calculate


def another_digit(rng: Random, digit: int) -> int:
    """Any digit but this one."""
    return (digit + rng.randrange(1, 10)) % 10
