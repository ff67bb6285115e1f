"""What a user's own code says of an answer, as a grade."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from selfteach.importing import in_one_line
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

LARGEST = 3.4e38
"""Beyond it a float32, which rewards become, is infinite."""
WANTED = "give one finite number, None, a Grade, or a dict with 'score'"


def judged(said: Any, claim: str | None = None) -> tuple[Verdict, Grade]:
    """The grade that ``said`` means, and what it counts as: "right" from a reward of 0.5 on, else "wrong".

    ``said``: a number (NumPy's, a tensor of one element and bool too), a ``Grade``, a dict with "score" (or "reward")
    and perhaps "feedback", or None: no reward for this answer, which trains as 0 and counts as "no reward". ``claim``:
    the answer's final answer, if it is known. Raises ValueError for anything else, NaN and infinities among them; its
    text is what was said.
    """
    feedback = found = None
    if isinstance(said, Grade):
        found = said.verdict
        claim = said.claim if said.claim is not None else claim
        said, feedback = said.reward, said.feedback
    elif isinstance(said, Mapping):
        if not {"score", "reward"} & set(said):
            raise ValueError(f"a dict without 'score' ({in_one_line(list(said))})")
        said, feedback = said.get("score", said.get("reward")), said.get("feedback")
    if not (feedback is None or isinstance(feedback, str)):
        raise ValueError(f"feedback that is no text ({in_one_line(feedback)})")
    if said is None:
        return Verdict.NO_REWARD, Grade(0.0, feedback or None, claim, Verdict.NO_REWARD.value)
    grade = Grade(_number(said), feedback or None, claim, found)
    return Verdict.RIGHT if grade.correct else Verdict.WRONG, grade


def _number(value: Any) -> float:
    item = getattr(value, "item", None)  # of NumPy's scalars and arrays, of tensors
    if callable(item):
        try:
            value = item()
        except Exception:
            raise ValueError(f"{type(value).__name__} of several numbers ({in_one_line(value)})") from None
    if not isinstance(value, Real):
        raise ValueError(f"{type(value).__name__} {in_one_line(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:  # nor is NaN
        raise ValueError(in_one_line(value))
    return number
