"""What a user's own code says of an answer, as a grade."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

from selfteach.importing import in_one_line
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

LARGEST = 3.4e38
"""Beyond it a float32, which rewards become, is infinite."""
MEASURED = frozenset(
    {"accuracy", "accuracy_se", "finished", "greedy", "headline", "headline_se", "length", "problems"}
)
"""What runs call numbers of their own: a grade's have other names."""
NUMBER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
WANTED = "give one finite number, None, a Grade, or a dict with 'score'"


def judged(said: Any, claim: str | None = None) -> tuple[Verdict, Grade]:
    """The grade that ``said`` means, and what it counts as: "right" from a reward of 0.5 on, else "wrong".

    ``said``: a number (NumPy's, a tensor of one element and bool too), a ``Grade``, a dict with "score" (or "reward")
    and perhaps "feedback" and "numbers" (a dict: what else was measured of the answer; numbers beside "score" count
    likewise, as verl's functions give them, and other things there are left alone), or None: no reward for this
    answer, which trains as 0 and counts as "no reward". ``claim``: the answer's final answer, if it is known. Raises
    ValueError for anything else, NaN and infinities among them; its text is what was said.
    """
    feedback = found = None
    numbers: Any = {}
    if isinstance(said, Grade):
        found = said.verdict
        claim = said.claim if said.claim is not None else claim
        numbers, said, feedback = said.numbers, said.reward, said.feedback
    elif isinstance(said, Mapping):
        if not {"score", "reward"} & set(said):
            raise ValueError(f"a dict without 'score' ({in_one_line(list(said))})")
        numbers, feedback = _all_numbers(said), said.get("feedback")
        said = said.get("score", said.get("reward"))
    if not (feedback is None or isinstance(feedback, str)):
        raise ValueError(f"feedback that is no text ({in_one_line(feedback)})")
    measured = _numbers(numbers)
    if said is None:
        return Verdict.NO_REWARD, Grade(0.0, feedback or None, claim, Verdict.NO_REWARD.value, measured)
    grade = Grade(_number(said), feedback or None, claim, found, measured)
    return Verdict.RIGHT if grade.correct else Verdict.WRONG, grade


def _all_numbers(said: Mapping[Any, Any]) -> Any:
    """What stands under "numbers", and the numbers that stand beside the score."""
    named = said.get("numbers")
    if not (named is None or isinstance(named, Mapping)):
        return named
    told = {"score", "reward", "feedback", "numbers"}
    return {
        **{key: one for key, one in said.items() if key not in told and isinstance(one, Real)},
        **(named or {}),
    }


def _numbers(found: Any) -> dict[str, float]:
    """Numbers by name, each finite, under names that no number of a run's own has."""
    if not isinstance(found, Mapping):
        raise ValueError(f"numbers that are no dict ({in_one_line(found)})")
    for name in found:
        if not (isinstance(name, str) and NUMBER_NAME.fullmatch(name)):
            raise ValueError(f"a number whose name is {in_one_line(name)} (letters, digits and _ . - only)")
        if name in MEASURED:
            raise ValueError(f"a number named {name!r}, which is a metric's name (give it another)")
    return {name: _named(name, value) for name, value in found.items()}


def _named(name: str, value: Any) -> float:
    try:
        return _number(value)
    except ValueError as problem:
        raise ValueError(f"as its number {name!r} {problem}") from None


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
