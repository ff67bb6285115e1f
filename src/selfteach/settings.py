"""Settings with bounds: frozen dataclasses whose fields are checked when they are made. Any floor may use them."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from functools import lru_cache, wraps
from pathlib import PurePath
from types import NoneType
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from annotated_types import Interval
from pydantic import ConfigDict, NonNegativeFloat, PositiveFloat, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from selfteach.checks import nearest
from selfteach.errors import UserError

T = TypeVar("T")

MOST = 10**9
"""The largest number of steps, rows or tokens that a knob may name: more is a slip of the pen, and would only hang."""
MOST_ROWS = 10**6
"""Of what is made and held at once: the prompts of a step, answers to one of them, held-out problems."""
MOST_COUNTED = 2**53
"""Of what is only counted up to, such as tokens generated: beyond it a float of a metric would be another number."""
LARGEST, SMALLEST = 1e30, 1e-30
"""Sizes between which a float must lie, or be 0: beyond them float32 arithmetic overflows, or divides by zero."""
SURROGATE = re.compile("[\ud800-\udfff]")
LONGEST_TEXT = 1_000_000
"""Characters of a knob that is text."""

PositiveInt = Annotated[int, Interval(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, Interval(ge=0, le=MOST)]
PositiveRows = Annotated[int, Interval(gt=0, le=MOST_ROWS)]
"""A number of rows that are in memory at once."""
NonNegativeRows = Annotated[int, Interval(ge=0, le=MOST_ROWS)]
Rank = Annotated[int, Interval(ge=0, le=MOST_ROWS)]
"""Columns of a low-rank factor; 0: there is none."""
Few = Annotated[int, Interval(gt=0, le=1000)]
"""Of whole runs, or of processes side by side."""
PositiveCount = Annotated[int, Interval(gt=0, le=MOST_COUNTED)]
"""A budget: what is only counted, never held."""
Seconds = Annotated[float, Interval(gt=0, le=86_400)]
"""A time limit of at most a day."""
Seed = Annotated[int, Interval(ge=0, lt=2**63)]
UnitInterval = Annotated[float, Interval(ge=0, le=1)]
"""A share, a probability, a decay: 0 ≤ x ≤ 1."""
PositiveUnit = Annotated[float, Interval(gt=0, le=1)]
"""0 < x ≤ 1."""
OpenUnit = Annotated[float, Interval(gt=0, lt=1)]
"""0 < x < 1."""

__all__ = [
    "Few",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NonNegativeRows",
    "OpenUnit",
    "PositiveCount",
    "PositiveFloat",
    "PositiveInt",
    "PositiveRows",
    "PositiveUnit",
    "Rank",
    "Seconds",
    "Seed",
    "UnitInterval",
    "settings",
]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(kind: type[T]) -> type[T]:
    """Make ``kind`` a frozen dataclass (of pydantic) whose fields keep to their types and bounds, defaults included.

    Bounds stand on the fields: ``beta: UnitInterval = 0.0``. Text that is a number counts as one, as files and command
    lines give it, and "none" as None where a field may be None; NaN and infinity do not count. No number is beyond
    what float32 and int64 hold, and no text endless (``refuse_extremes``). What spans several fields is left to
    ``__post_init__`` and ``require``. Making one raises UserError, in one line that names field, bound and value.
    """
    extremes_first(kind)
    config = ConfigDict(
        arbitrary_types_allowed=True, allow_inf_nan=False, extra="forbid", validate_default=True
    )
    checked = cast(type[T], pydantic_dataclass(kind, frozen=True, config=config))
    plain = checked.__init__

    @wraps(plain)
    def init(self: Any, *args: Any, **values: Any) -> None:
        refuse_truth(checked, values)
        read = {name: None if means_none(checked, name, value) else value for name, value in values.items()}
        try:
            plain(self, *args, **read)
        except ValidationError as problem:
            raise UserError(complaint(kind, problem)) from None

    checked.__init__ = init  # type: ignore[method-assign]
    return checked


def extremes_first(kind: type) -> None:
    """Have the class refuse extremes before its own ``__post_init__`` computes with them."""
    own = getattr(kind, "__post_init__", None)

    def checked(self: Any) -> None:
        refuse_extremes(self)
        if own is not None:
            own(self)

    kind.__post_init__ = checked  # type: ignore[attr-defined]


def refuse_extremes(made: Any) -> None:
    """UserError for a value that no arithmetic, file or page could hold, wherever in the field it stands.

    A field of any type holds an object of the user's (rows, a task): of these only a name is looked at.
    """
    hints: Mapping[str, Any] = hints_of(cast(Any, type(made)))
    for one in fields(made):
        value = getattr(made, one.name)
        if hints.get(one.name) is Any and not isinstance(value, str):
            continue
        for part in leaves(value):
            if lack := lack_of(part):
                raise UserError(f"{one.name} {lack}, got {shown(part)}")


def leaves(value: Any) -> Iterator[Any]:
    """The plain values that a field holds; other settings have checked their own."""
    if isinstance(value, tuple | list | set | frozenset):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from (key, *leaves(part))
    else:
        yield value


def lack_of(value: Any) -> str | None:
    """What a plain value must be and is not; None if nothing is wrong with it."""
    value = str(value) if isinstance(value, PurePath) else value
    match value:
        case bool():
            return None
        case int() if abs(value) >= 2**63:
            return "must be a number of at most 18 digits"
        case float() if value and not SMALLEST <= abs(value) <= LARGEST:
            return f"must be 0 or of a size between {SMALLEST:g} and {LARGEST:g}"
        case str() if len(value) > LONGEST_TEXT:
            return f"must have at most {LONGEST_TEXT:,} characters"
        case str() if "\0" in value:
            return "must be text without a NUL character"
        case str() if SURROGATE.search(value):
            return "must be valid Unicode text, without lone surrogates"
    return None


def is_settings(kind: type) -> bool:
    """Whether the class itself, not a base of it alone, was made by ``settings``."""
    return is_dataclass(kind) and "__pydantic_validator__" in kind.__dict__


def means_none(kind: type, name: str, value: Any) -> bool:
    """Whether a value is the word "none" for None: where the field may be None, and no choice is called so."""
    if not (isinstance(value, str) and value.lower() == "none"):
        return False
    hint = hints_of(kind).get(name)
    parts = get_args(hint)
    choices = [choice for part in (hint, *parts) for choice in get_args(part)]
    return (NoneType in parts or None in choices) and value not in choices


def refuse_truth(kind: type, values: Mapping[str, Any]) -> None:
    """UserError for True or False in the place of a number: YAML's yes is none."""
    for name, value in values.items():
        hint = hints_of(kind).get(name)
        parts = {hint, *get_args(hint)}
        if isinstance(value, bool) and parts & {int, float} and bool not in parts:
            raise UserError(f"{name} must be a number, got {value}")


@lru_cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """Field → type, without bounds."""
    return get_type_hints(kind)


def plainly(bound: float) -> str:
    """A bound as it is read: 0.5, 1,000,000."""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


BOUND: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda at: f"must be above {plainly(at['gt'])}",
    "greater_than_equal": lambda at: f"must be {plainly(at['ge'])} or more",
    "less_than": lambda at: f"must be below {plainly(at['lt'])}",
    "less_than_equal": lambda at: f"must be at most {plainly(at['le'])}",
    "literal_error": lambda at: f"must be {at['expected']}",
    "finite_number": lambda at: "must be a finite number",
    "int_from_float": lambda at: "must be a whole number",
    "int_parsing": lambda at: "must be a whole number",
    "int_parsing_size": lambda at: "must be a number of at most 18 digits",
    "string_unicode": lambda at: "must be valid Unicode text, without lone surrogates",
    "float_parsing": lambda at: "must be a number",
}
"""pydantic's kinds of error in our words; any other is told in its own."""
LONGEST = 100
"""Characters of a value that a message repeats."""


def complaint(kind: type, problem: ValidationError) -> str:
    """The first of what pydantic found: field, what it must be, what it is."""
    first = problem.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or kind.__name__
    match first["type"]:
        case "unexpected_keyword_argument":
            return unknown(kind, place)
        case "missing" if len(first["loc"]) > 1:
            return f"{place} has too few values"
        case "missing_argument" | "missing":
            return f"{kind.__name__} needs {place!r}, which has no default"
        case "unexpected_positional_argument":
            return f"{kind.__name__} takes fewer values by position: name them"
    said = first["msg"].replace("Input should be", "must be")
    words = BOUND[first["type"]](first.get("ctx", {})) if first["type"] in BOUND else said
    return " ".join(f"{place} {words}, got {shown(first['input'])}".split())


def shown(value: Any) -> str:
    """A value as a message repeats it: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of {value.bit_length() * 30103 // 100_000 + 1} digits"
    try:
        return reprlib.repr(value)[:LONGEST]
    except Exception:  # a number within it that is too long to be written, an object of a user's own
        return f"a {type(value).__name__}"


def unknown(kind: type, name: str) -> str:
    """Which fields there are, and where a knob of that name stands."""
    own = [one.name for one in fields(kind)] if is_dataclass(kind) else []
    for field_name, hint in hints_of(kind).items():
        if is_dataclass(hint) and name in (one.name for one in fields(hint)):
            inner = getattr(hint, "__name__", "")
            return f"{kind.__name__} has no field {name!r}: it stands in {field_name}={inner}({name}=…)"
    return f"{kind.__name__} has no field {name!r}{nearest(name, own)}"
