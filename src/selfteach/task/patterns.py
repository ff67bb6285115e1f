"""Regular expressions that somebody else wrote: searched in a process of its own, for a bounded time.

``(a+)+$`` takes longer than anybody lives on forty letters, and Python's ``re`` cannot be interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from selfteach.errors import UserError
from selfteach.task.timed import TimedWorker

SECONDS = 60.0
"""For all texts together: a vocabulary of 200,000 tokens takes one."""


@cache
def worker() -> TimedWorker:
    return TimedWorker(warm_up)


def first_found(what: str, patterns: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Of each text the place of the first pattern that is found in it, or ``len(patterns)``.

    UserError, which begins with ``what``, for a pattern that is none, or where all takes longer than ``SECONDS``.
    """
    outcome = worker().call(search, list(patterns), list(texts), seconds=SECONDS)
    if outcome.status == "done":
        return list(outcome.value)
    if outcome.status == "raised":
        raise UserError(f"{what}: {outcome.reason}")
    raise UserError(
        f"{what}: {outcome.reason}; a repetition within a repetition, as in (a+)+, takes too long: write it simpler"
    )


# --- what the worker does ---------------------------------------------------------------------------------------------


def warm_up() -> None:
    """There is nothing to import."""


def search(patterns: list[str], texts: list[str]) -> list[int]:
    compiled = [compiled_of(pattern) for pattern in patterns]
    return [next((k for k, one in enumerate(compiled) if one.search(text)), len(compiled)) for text in texts]


def compiled_of(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{pattern[:60]!r} is no regular expression ({error or type(error).__name__})"
        ) from None
