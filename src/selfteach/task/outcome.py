"""What became of one answer, in one word: the only place that decides it, for pages, the terminal and files alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from selfteach.task.example import Example, Grade
from selfteach.task.verdict import Verdict

Outcome = Literal[
    "right",
    "wrong",
    "no answer",
    "unparseable",
    "cut off",
    "timed out",
    "reference unparseable",
    "no reward",
    "ungraded",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

WHY: Mapping[Outcome, str] = {
    "right": "The answer is right.",
    "wrong": "The answer was read, and it is another than the reference.",
    "no answer": "No final answer was found in the form that was asked for.",
    "unparseable": "A final answer was found, but it could not be read.",
    "cut off": "It met the length limit before it was done.",
    "timed out": "The final answer took too long to check.",
    "reference unparseable": "The reference could not be read: the row of data is at fault, not the answer.",
    "no reward": "Nobody judged the answer, so that it counts 0.",
    "ungraded": "The answer was not graded.",
}
"""A sentence for each outcome."""

_OF_VERDICT: Mapping[str, Outcome] = {
    Verdict.WRONG: "wrong",
    Verdict.NO_ANSWER: "no answer",
    Verdict.UNPARSEABLE: "unparseable",
    Verdict.TIMED_OUT: "timed out",
    Verdict.REFERENCE_UNPARSEABLE: "reference unparseable",
    Verdict.NO_REWARD: "no reward",
}
_OF_THE_CHECK: tuple[Outcome, ...] = ("reference unparseable", "no reward")
"""What no answer could have changed: it comes before "cut off"."""


UNREAD: tuple[Outcome, ...] = ("no answer", "unparseable", "timed out", "reference unparseable")
"""Of answers that nobody could read."""


def outcome(grade: Grade | None, finished: bool = True) -> Outcome:
    """What became of an answer with this grade; ``finished``: it ended by itself, not at the length limit.

    "right" from a reward of 0.5 on (``Grade.correct``), finished or not. One that is not right and met the limit is
    "cut off", whatever stands in it so far: what it would have come to is not known. Else what the check found
    (``Grade.verdict``), and "wrong" where the check told a reward only.
    """
    if grade is None:
        return "ungraded"
    if grade.correct:
        return "right"
    found = _OF_VERDICT.get(str(grade.verdict), "wrong")
    if found in _OF_THE_CHECK:
        return found
    if not finished:
        return "cut off"
    return "no answer" if found == "unparseable" and grade.claim is None else found


def outcome_told(told: object, reward: float | None, finished: bool) -> Outcome:
    """What a row of samples.jsonl says became of its answer (``told``); of a row that says nothing that is known (an
    older run's), what its reward says, None for an answer that was not graded."""
    known = next((one for one in OUTCOMES if one == told), None)
    return known or outcome(None if reward is None else Grade(reward), finished)


def reference_of(example: Example) -> str | None:
    """What an answer is compared with: the private field ``answer``, else ``solution``; None without either."""
    return example.private.get("answer") or example.private.get("solution") or None
