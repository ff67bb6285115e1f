"""The Hugging Face hub, asked once whether it answers: a library that waits for it tries again for a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selfteach.outside import said_by

SECONDS = 5.0
"""That the hub may take to answer at all."""
AGAIN = 300.0
"""Seconds after which one that did not answer is asked again: a notebook may be online by then. Until then model,
teacher and data do not wait for it one after the other."""
_answered: set[str] = set()
_silent: dict[str, tuple[float, str]] = {}
"""When it did not answer, and why."""


def silence() -> str | None:
    """Why the hub does not answer; None if it does, or if the user has asked for none (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants, get_session

    hub = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE or hub in _answered:
        return None
    when, why = _silent.get(hub, (0.0, ""))
    if why and time.monotonic() - when < AGAIN:
        return why
    try:
        get_session().head(hub, timeout=SECONDS)
    except Exception as error:  # of whichever HTTP library it uses today
        _silent[hub] = time.monotonic(), f"{hub} does not answer: {said_by(error)}"
        return _silent[hub][1]
    _answered.add(hub)
    return None


@contextmanager
def hub_at_hand() -> Iterator[str | None]:
    """Within it the libraries look into their caches at once where the hub does not answer; gives the reason."""
    reason = silence()
    if reason is None:
        yield None
        return
    from huggingface_hub import constants

    places = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield reason
    finally:
        for place, was in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = was
