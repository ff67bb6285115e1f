"""Chat templates are programs of strangers: each is run in a process of its own, under bounds on time, memory and size.

Jinja's sandbox keeps a template from Python's objects and from files, but not from running on without end
(``{% for %}`` in ``{% for %}``, ``10**10**10``) or from filling the memory. A worker process can be killed. It imports
neither torch nor a model class: half a second to start, 60 MB, then some 0.1 ms for a conversation.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from functools import cache
from typing import Any, Self

from selfteach.errors import UserError
from selfteach.task.timed import Outcome, TimedWorker

SECONDS = 20.0
"""For one conversation; a template takes a thousandth of one."""
MOST_CHARACTERS = 2_000_000
"""That a template may add to its messages and make of them, ``SWELLING`` times each."""
SWELLING = 20
LONGEST = 1_000_000
"""Characters of a template."""


NOW = datetime(2024, 7, 26)
"""What a template is told that asks for the date: the one that Llama's templates print where there is no clock."""


class TemplateFault(Exception):
    """A template did not make a text of a conversation; the words say why."""


@cache
def worker() -> TimedWorker:
    return TimedWorker(warm_up)


def rendered(
    template: str, messages: Sequence[Mapping[str, Any]], generation: bool, named: Mapping[str, Any]
) -> str:
    """What ``template`` makes of a conversation; ``named`` are the variables it may read beside (special tokens,
    switches, tools).

    Raises TemplateFault where it raises, has an error, takes longer than ``SECONDS`` or makes far more text than it was
    given; UserError where no process for it can be started.
    """
    try:
        outcome = worker().call(render, template, list(messages), generation, dict(named), seconds=SECONDS)
    except RuntimeError as problem:
        raise UserError(
            f"chat templates run in a process of their own, which did not start: {problem}"
        ) from problem
    if outcome.status != "done":
        raise TemplateFault(why(outcome))
    return str(outcome.value)


def why(outcome: Outcome) -> str:
    match outcome.status:
        case "timed out":
            return f"it runs for longer than {SECONDS:g} s"
        case "died":
            return "it uses up all memory, or crashes"
    kind, _, said = outcome.reason.partition(": ")
    if kind in ("MemoryError", "OverflowError"):
        return f"it makes more than memory holds ({said or kind})"
    return said if kind in ("TemplateError", "Endless") and said else outcome.reason


# --- what the worker does ---------------------------------------------------------------------------------------------


class Endless(Exception):
    """A template makes far more text than it was given."""


def warm_up() -> None:
    """Import what renders; without torch, which it does not need and which would take four times as long."""
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers.utils import chat_template_utils

    # Of the worker alone, which does nothing but render; a template's variables may be plain data only.
    chat_template_utils.datetime = Stopped  # type: ignore[attr-defined]


class Stopped(datetime):
    """A clock that stands at ``NOW``."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(NOW.year, NOW.month, NOW.day, tzinfo=tz)


def render(template: str, messages: list[dict[str, Any]], generation: bool, named: dict[str, Any]) -> str:
    """The conversation as transformers renders it, but for clock and chance: what is trained today must be read alike
    tomorrow. Called in the worker."""
    from transformers.utils.chat_template_utils import render_jinja_template

    random.seed(0)  # of Jinja's filter of that name
    made: Any = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=generation,
        **named,
    )
    text = str(made[0][0])
    given = sum(len(message["content"]) for message in messages)
    if len(text) > MOST_CHARACTERS + SWELLING * given:
        raise Endless(f"it makes {len(text):,} characters of {given:,}")
    return text
