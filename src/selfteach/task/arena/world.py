"""A world: a source of examples with a verifier (the ``Task`` protocol), made from pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from selfteach.task.arena.arithmetic import Calculator, Step, exact
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict

HELD_OUT_ONE_IN = 16


def is_held_out(problem: str) -> bool:
    """Whether a problem is kept for evaluation: one in sixteen, by a hash of its text."""
    return sha256(problem.encode()).digest()[0] % HELD_OUT_ONE_IN == 0


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


def show(wording: Mapping[str, str], example: Example, view: str, told: Mapping[str, str]) -> str:
    """What ``view`` makes of an example: its template filled with the problem, private fields and what is ``told``."""
    template = "{problem}" if view == "plain" else wording[view]
    return template.format_map({"problem": example.problem, **example.private, **told})


@dataclass(frozen=True)
class World:
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

    def question(self, example: Example, view: str, **told: str) -> str:
        """The user message of an example: bare (view ``plain``), or with what a taught view reveals.

        ``told`` holds what the view shows beyond the private fields, such as the feedback on an attempt.
        """
        return show(self.wording, example, view, told)

    def train(self, index: int) -> Example:
        rng = Random(f"{self.name} train {self.seed} {index}")
        return self.example(self.draw(rng))

    def held_out(self, count: int) -> list[Example]:
        rng = Random(f"{self.name} held out")
        problems: dict[str, None] = {}
        while len(problems) < count:
            problems[self.draw(rng, held_out=True)] = None
        return [self.example(problem) for problem in problems]

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

    def draw(self, rng: Random, held_out: bool = False) -> str:
        """A problem for training and pretraining, or one of those held out from both."""
        while is_held_out(problem := self.pose(rng)) != held_out:
            pass
        return problem
