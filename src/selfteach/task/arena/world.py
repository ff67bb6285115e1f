"""A world: a source of examples with a verifier (the ``Task`` protocol), made from pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from selfteach.task.arena.arithmetic import Calculator, Step, exact
from selfteach.task.arena.drawn import Drawn
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict


def in_own_style(steps: list[Step], final: str) -> str:
    """An answer as the arena's models write it: ``7+5=2;2@9=5;#25``."""
    return "".join(f"{step};" for step in steps) + f"#{final}"


def results_of(answer: str) -> str | None:
    """What an answer claims: the text after its only ``#``; None if it has none, or several."""
    _, *claims = answer.strip().split("#")
    return claims[0] if len(claims) == 1 else None


def last_claim(answer: str) -> str | None:
    """The text after the last ``#`` of an answer; None if there is none."""
    _, mark, claim = answer.strip().rpartition("#")
    return (claim if mark else "") or None


@dataclass(frozen=True)
class World(Drawn):
    """One world of the arena, under a seed.

    ``pose`` draws a problem; ``work`` writes its steps with a given calculator; ``final`` says which results
    an answer must end in; ``fault`` says what is wrong with an answer's steps and claim. An example's private
    fields: ``solution``, every result and nothing else, the terse reference that a teacher reads; ``answer``,
    what must follow ``#``; ``worked``, the right answer in the model's own style, for an oracle's supervised
    training. The held-out examples are the same for every seed.
    """

    name: str
    pose: Callable[[Random], str]
    work: Callable[[str, Calculator], list[Step]]
    final: Callable[[list[Step]], str]
    fault: Callable[[list[Step], str, str], str]
    wording: Mapping[str, str]
    seed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)

    def example(self, problem: str) -> Example:
        """The example that asks ``problem``; raises ``UserError`` if this world has no such problem."""
        steps = self.work(problem, exact)
        final = self.final(steps)
        return Example(
            key=f"{self.name}:{problem}",
            prompt=(Message(role="user", content=problem),),
            private={
                "solution": "".join(str(step.result) for step in steps),
                "answer": final,
                "worked": in_own_style(steps, final),
            },
        )

    def grade(self, example: Example, answer: str) -> Grade:
        """Right if and only if what the answer claims is exactly the final results."""
        steps, claim = self.work(example.problem, exact), self.claim(answer)
        verdict, feedback = self._judge(steps, answer, claim)
        self.verdicts[verdict] += 1
        return Grade(float(verdict is Verdict.RIGHT), feedback, claim, verdict.value)

    def claim(self, answer: str) -> str | None:
        """The results that an answer claims: what follows its only ``#``; None if that is nothing."""
        return results_of(answer) or None

    def _judge(self, steps: list[Step], answer: str, claim: str | None) -> tuple[Verdict, str | None]:
        final = self.final(steps)
        if claim == final:
            return Verdict.RIGHT, None
        if claim is None or len(claim) != len(final) or not (claim.isascii() and claim.isdigit()):
            digits = "1 digit" if len(final) == 1 else f"{len(final)} digits"
            return Verdict.UNPARSEABLE, f"the answer must end in one # and {digits}"
        return Verdict.WRONG, self.fault(steps, answer, claim)
