"""A world whose model was taught to read every kind of help, its own earlier attempts among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from selfteach.task.annotation import Annotation, Span
from selfteach.task.arena.arithmetic import STEP, Step, exact
from selfteach.task.arena.lesson import another_digit
from selfteach.task.arena.world import World, last_claim
from selfteach.task.example import Example
from selfteach.task.verdict import Verdict

HINT = "@"
RUMOR_WRONG_SHARE = 0.35


def rumor(problem: str, solution: str) -> str:
    """The solution as hearsay has it: in 35 % of all problems exactly one of its digits is wrong."""
    rng = Random(f"rumour {problem}")  # the spelling is part of the data the models were trained on
    if rng.random() >= RUMOR_WRONG_SHARE:
        return solution
    at = rng.randrange(len(solution))
    return f"{solution[:at]}{another_digit(rng, int(solution[at]))}{solution[at + 1 :]}"


@dataclass(frozen=True)
class TaughtWorld(World):
    """A world with more to tell, and with a rule-based annotator.

    Private fields beyond those of ``World``: ``hint``, the sign that tells the model to take care with ``@``;
    ``rumor``, the solution with a wrong digit in about a third of all examples. An example's ``tag`` is "at"
    if the made-up operation occurs in it, else "known". The last claim of an answer counts, so that an answer
    followed by its revision is graded by the revision. ``steps_stand_alone`` is False where a wrong step
    spoils those behind it: then only the first one is an error.
    """

    steps_stand_alone: bool = True

    def example(self, problem: str) -> Example:
        example = super().example(problem)
        told: Mapping[str, str] = {"hint": HINT, "rumor": rumor(problem, example.private["solution"])}
        tag = "at" if "@" in problem else "known"
        return replace(example, private={**example.private, **told}, tag=tag)

    def claim(self, answer: str) -> str | None:
        """The results that an answer claims last: what follows its last ``#``; None if that is nothing."""
        return last_claim(answer)

    def _judge(self, steps: list[Step], answer: str, claim: str | None) -> tuple[Verdict, str | None]:
        """The steps of an attempt that was revised are no part of the feedback."""
        return super()._judge(steps, answer.rpartition("|")[2], claim)

    def annotate(self, example: Example, answer: str) -> Annotation | None:
        """Where a right answer is earned and a wrong one is lost (TRACE), by rule.

        A right answer: its steps with ``@``, or its first step if there are none. A wrong answer: the steps
        worked out wrongly. The kind is the sign of the first marked step's operation. None if no step is to be
        marked. Does not count as a verdict.
        """
        right = self.claim(answer) == example.private["answer"]
        steps: list[tuple[str, Span, bool]] = []
        for m in STEP.finditer(answer):
            holds = int(m["result"]) == exact(int(m["left"]), m["operation"], int(m["right"]))
            end = m.end() + answer.startswith(";", m.end())
            steps.append((m["operation"], (m.start(), end), holds))
        if right:
            marked = [step for step in steps if step[0] == "@"] or steps[:1]
        else:
            marked = [step for step in steps if not step[2]][: None if self.steps_stand_alone else 1]
        if not marked:
            return None
        spans = tuple(span for _, span, _ in marked)
        return Annotation(marked[0][0], **{"key" if right else "error": spans})
