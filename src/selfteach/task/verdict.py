"""What the check of one final answer found, and the grade it earns."""

from __future__ import annotations

from enum import StrEnum

from selfteach.task.example import Grade


class Verdict(StrEnum):
    """The outcomes of a check; a task counts them, so that a run can show how its rewards came about."""

    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no answer"
    UNPARSEABLE = "unparseable"
    REFERENCE_UNPARSEABLE = "reference unparseable"
    TIMED_OUT = "timed out"
    NO_REWARD = "no reward"

    def grade(self, claim: str | None = None) -> Grade:
        """Reward 1.0 if right, else 0.0; feedback only where it says more than the reward does."""
        return Grade(float(self is Verdict.RIGHT), _FEEDBACK.get(self), claim, self.value)


_FEEDBACK = {
    Verdict.NO_ANSWER: "No final answer was found in the form that was asked for.",
    Verdict.UNPARSEABLE: "The final answer could not be read.",
    Verdict.TIMED_OUT: "The final answer took too long to check.",
}
