"""Rows with their places, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = tuple[int, Mapping[str, Any]]


class JsonNumber(float):
    """A number with a point or an exponent as it is ``written`` in the file: 0.10 is not 0.1 there."""

    written: str

    def __new__(cls, written: str) -> JsonNumber:
        number = super().__new__(cls, written)
        number.written = written
        return number


@dataclass(frozen=True)
class Source:
    """``label`` names it in messages, ``name`` in the keys of examples (without the machine's folders).

    ``rows(columns)`` gives (1-based row number, the named columns).
    """

    label: str
    name: str
    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Iterator[Row]]
