"""What goes between a program and its tests: JSON that tells a tuple from a list, and is never code.

Plain values of Python go over as they are, of their subclasses as what these are at bottom; anything else (an instance
of a program's class, a function) stays where it is, and a number stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

DEEPEST = 100
Keep = Callable[[object], int]


def encoded(value: Any, keep: Keep, depth: int = 0) -> Any:
    """As JSON. ``keep`` gives the number that stands for what is no plain value; TypeError where it keeps none."""
    if depth > DEEPEST:
        raise ValueError(f"a value nested more than {DEEPEST} deep")

    def within(items: Any) -> list[Any]:
        return [encoded(one, keep, depth + 1) for one in items]

    if value is None or isinstance(value, bool | str):
        return None if value is None else (bool(value) if isinstance(value, bool) else str.__str__(value))
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).decode("latin-1")]
    if isinstance(value, dict):
        return ["dict", within(dict.keys(value)), within(dict.values(value))]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, Decimal):
        return ["decimal", str(value)]
    if isinstance(value, Fraction):
        return ["fraction", value.numerator, value.denominator]
    if isinstance(value, date):  # and datetime
        return ["datetime" if isinstance(value, datetime) else "date", value.isoformat()]
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return [kind.__name__, *within(value)]
    return ["kept", keep(value), type(value).__name__]


def decoded(told: Any, kept: Callable[[int, str], Any]) -> Any:
    """The value that JSON tells; ``kept`` gives what stands for one that stayed. ValueError where it tells none."""
    if not isinstance(told, list):
        if told is None or isinstance(told, bool | int | float | str):
            return told
        raise ValueError("no value")

    def within(items: Any) -> list[Any]:
        return [decoded(one, kept) for one in items]

    match told:
        case ["complex", real, imaginary]:
            return complex(real, imaginary)
        case ["bytes", str(text)]:
            return text.encode("latin-1")
        case ["dict", list(keys), list(values)] if len(keys) == len(values):
            return dict(zip(within(keys), within(values), strict=True))
        case ["list", *items]:
            return within(items)
        case ["tuple", *items]:
            return tuple(within(items))
        case ["set", *items]:
            return set(within(items))
        case ["frozenset", *items]:
            return frozenset(within(items))
        case ["range", int(start), int(stop), int(step)]:
            return range(start, stop, step)
        case ["decimal", str(text)]:
            return Decimal(text)
        case ["fraction", int(above), int(below)]:
            return Fraction(above, below)
        case ["date", str(text)]:
            return date.fromisoformat(text)
        case ["datetime", str(text)]:
            return datetime.fromisoformat(text)
        case ["kept", int(number), str(kind)]:
            return kept(number, kind)
    raise ValueError("no value")
