"""The Hugging Face hub, asked once whether it answers: a library that waits for it tries again for a minute."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from selfteach.outside import said_by

SECONDS = 5.0
"""That the hub may take to answer at all."""
_answered: set[str] = set()


def silence() -> str | None:
    """Why the hub does not answer; None if it does, or if the user has asked for none (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE or constants.ENDPOINT in _answered:
        return None
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of whichever HTTP library it uses today
        return f"{constants.ENDPOINT} does not answer: {said_by(error)}"
    _answered.add(constants.ENDPOINT)
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
