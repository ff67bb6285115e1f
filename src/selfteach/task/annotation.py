"""Which parts of an answer an annotator marked (TRACE): character spans of its text, and a coarse type."""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True)
class Annotation:
    """``key`` spans carry a right answer, ``error`` spans spoil a wrong one: [begin, end) in characters.

    ``kind`` names the type of what was marked without telling where or what it is: all a teacher may be shown.
    """

    kind: str
    key: tuple[Span, ...] = ()
    error: tuple[Span, ...] = ()
