"""Refusals in one line, and the nearest of the known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from selfteach.errors import UserError


def require(condition: bool, message: str) -> None:
    """Refuse an impossible setting in one line."""
    if not condition:
        raise UserError(message)


READABLE = 24
"""Names that a message lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean a, b?', or what is known if nothing is near and the list can be read."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(names)}" if len(names) <= READABLE else ""
