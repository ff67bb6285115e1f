"""Settings with bounds: frozen dataclasses whose fields are checked when they are made. Any floor may use them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from functools import lru_cache, wraps
from types import NoneType
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from annotated_types import Interval
from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from selfteach.checks import nearest
from selfteach.errors import UserError

T = TypeVar("T")

UnitInterval = Annotated[float, Interval(ge=0, le=1)]
"""A share, a probability, a decay: 0 ≤ x ≤ 1."""
PositiveUnit = Annotated[float, Interval(gt=0, le=1)]
"""0 < x ≤ 1."""
OpenUnit = Annotated[float, Interval(gt=0, lt=1)]
"""0 < x < 1."""

__all__ = [
    "NonNegativeFloat",
    "NonNegativeInt",
    "OpenUnit",
    "PositiveFloat",
    "PositiveInt",
    "PositiveUnit",
    "UnitInterval",
    "settings",
]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(kind: type[T]) -> type[T]:
    """Make ``kind`` a frozen dataclass (of pydantic) whose fields keep to their types and bounds, defaults included.

    Bounds stand on the fields: ``beta: UnitInterval = 0.0``. Text that is a number counts as one, as files and command
    lines give it, and "none" as None where a field may be None; NaN and infinity do not count. What spans several
    fields is left to ``__post_init__`` and ``require``. Making one raises UserError, in one line that names field,
    bound and value.
    """
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


BOUND: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda at: f"must be above {at['gt']:g}",
    "greater_than_equal": lambda at: f"must be {at['ge']:g} or more",
    "less_than": lambda at: f"must be below {at['lt']:g}",
    "less_than_equal": lambda at: f"must be at most {at['le']:g}",
    "literal_error": lambda at: f"must be {at['expected']}",
    "finite_number": lambda at: "must be a finite number",
    "int_from_float": lambda at: "must be a whole number",
    "int_parsing": lambda at: "must be a whole number",
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
    shown = reprlib.repr(first["input"])[:LONGEST]
    return " ".join(f"{place} {words}, got {shown}".split())


def unknown(kind: type, name: str) -> str:
    """Which fields there are, and where a knob of that name stands."""
    own = [one.name for one in fields(kind)] if is_dataclass(kind) else []
    for field_name, hint in hints_of(kind).items():
        if is_dataclass(hint) and name in (one.name for one in fields(hint)):
            inner = getattr(hint, "__name__", "")
            return f"{kind.__name__} has no field {name!r}: it stands in {field_name}={inner}({name}=…)"
    return f"{kind.__name__} has no field {name!r}{nearest(name, own)}"
