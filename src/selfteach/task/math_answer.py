"""Is this final answer mathematically equal to the reference? math-verify says, within a hard time limit."""

from __future__ import annotations

import logging
from functools import lru_cache

from selfteach.task.answer import last_boxed
from selfteach.task.timed import TimedWorker
from selfteach.task.verdict import Verdict

MAX_CHARS = 2000


def check_math(answer: str, gold: str, seconds: float = 5.0) -> Verdict:
    """Compare a final answer (LaTeX or plain, with or without ``\\boxed{}`` or ``$``) with the reference.

    Equal text is right without further ado. Anything else is parsed by math-verify's LaTeX grammar, never
    executed, in a worker process that is killed after ``seconds``. An answer longer than MAX_CHARS characters,
    or one on which the parser fails or dies, is UNPARSEABLE; the same of the reference is
    REFERENCE_UNPARSEABLE, which no answer can mend. Repeated pairs are remembered, so that a group of rollouts
    costs one check; a check that did not come to its end is tried again.
    """
    answer, gold = _bare(answer), _bare(gold)
    if not answer:
        return Verdict.NO_ANSWER
    if answer == gold:
        return Verdict.RIGHT
    if len(gold) > MAX_CHARS:
        return Verdict.REFERENCE_UNPARSEABLE
    if len(answer) > MAX_CHARS:
        return Verdict.UNPARSEABLE
    try:
        return _check(answer, gold, seconds)
    except _Unsettled as unsettled:
        return unsettled.verdict


class _Unsettled(Exception):
    """The check did not come to its end (time, memory): raised, since only what is returned is remembered."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


@lru_cache(maxsize=4096)
def _check(answer: str, gold: str, seconds: float) -> Verdict:
    outcome = _worker.call(_compare, answer, gold, seconds=seconds)
    if outcome.status == "timed out":
        raise _Unsettled(Verdict.TIMED_OUT)
    if outcome.status == "died":
        raise _Unsettled(Verdict.UNPARSEABLE)
    return Verdict(outcome.value) if outcome.status == "done" else Verdict.UNPARSEABLE


def _bare(text: str) -> str:
    """Without its box, dollars and a sentence's full stop."""
    boxed = last_boxed(text)
    text = (text if boxed is None else boxed).strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$").strip()
    return text.removesuffix(".")


def _compare(answer: str, gold: str) -> str:
    """Runs in the worker."""
    from math_verify import verify

    reference, given = _parse(gold), _parse(answer)
    if not reference:
        return Verdict.REFERENCE_UNPARSEABLE
    if not given:
        return Verdict.UNPARSEABLE
    return Verdict.RIGHT if verify(reference, given, timeout_seconds=None) else Verdict.WRONG


def _parse(text: str) -> list[object]:
    """SymPy objects only: math-verify's plain-text fall-backs are left out, equal text was settled before."""
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    parsed: list[object] = parse(
        f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None
    )
    return parsed


def _warm_up() -> None:
    logging.disable(logging.CRITICAL)
    _compare("\\frac{1}{2} + x^2", "x^2 + \\frac{1}{3}")


_worker = TimedWorker(_warm_up)
