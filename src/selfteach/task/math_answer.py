"""Is this final answer equal to the reference? Asked in a process of its own, within a hard time limit."""

from __future__ import annotations

import logging
from functools import lru_cache

from selfteach.task.answer import last_boxed
from selfteach.task.answer_type import AnswerType
from selfteach.task.timed import TimedWorker
from selfteach.task.verdict import Verdict

MAX_CHARS = 2000


def check_math(
    answer: str, gold: str, seconds: float = 5.0, answer_type: AnswerType | None = None
) -> Verdict:
    """Compare a final answer (LaTeX or plain, with or without ``\\boxed{}`` or ``$``) with the reference.

    ``answer_type``: what the reference is; None: what it looks like (``answer_type.infer_type``). Equal text is right
    without further ado. Numbers, words, choices and lists are compared as what they are, all else is parsed by
    math-verify's LaTeX grammar; nothing is ever executed, and all of it runs in a worker process that is killed
    after ``seconds``. An answer longer than MAX_CHARS characters,
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
        return _check(answer, gold, seconds, answer_type)
    except _Unsettled as unsettled:
        return unsettled.verdict


def is_readable(gold: str, seconds: float = 5.0, answer_type: AnswerType | None = None) -> bool:
    """Whether an answer other than the reference's very text could be found right."""
    gold = _bare(gold)
    if not gold or len(gold) > MAX_CHARS:
        return False
    outcome = _worker.call(_readable, gold, answer_type, seconds=seconds)
    return outcome.status == "done" and bool(outcome.value)


class _Unsettled(Exception):
    """The check did not come to its end (time, memory): raised, since only what is returned is remembered."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


@lru_cache(maxsize=4096)
def _check(answer: str, gold: str, seconds: float, answer_type: AnswerType | None) -> Verdict:
    outcome = _worker.call(_judge, answer, gold, answer_type, seconds=seconds)
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


def _judge(answer: str, gold: str, answer_type: AnswerType | None) -> str:
    """Runs in the worker."""
    from selfteach.task.compare import compare
    from selfteach.task.symbolic import Unreadable

    try:
        return Verdict.RIGHT if compare(answer, gold, answer_type) else Verdict.WRONG
    except Unreadable as why:
        return Verdict.REFERENCE_UNPARSEABLE if why.args == ("reference",) else Verdict.UNPARSEABLE


def _readable(gold: str, answer_type: AnswerType | None) -> bool:
    """Runs in the worker."""
    from selfteach.task.compare import readable

    return readable(gold, answer_type)


def _warm_up() -> None:
    logging.disable(logging.CRITICAL)
    _judge("\\sqrt{2} + x^2", "x^2 + \\sqrt{3}", None)


_worker = TimedWorker(_warm_up)
