"""Settings with bounds: frozen dataclasses whose fields are checked when they are made. Any floor may use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

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
    """Make ``kind`` a frozen dataclass (of pydantic) whose fields keep to their types and bounds.

    Bounds stand on the fields: ``beta: UnitInterval = 0.0``. Text that is a number counts as one, as files and command
    lines give it; NaN and infinity do not. What spans several fields is left to ``__post_init__`` and ``require``.
    Making one raises UserError, in one line that names field, bound and value.
    """
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    checked = cast(type[T], pydantic_dataclass(kind, frozen=True, config=config))
    plain = checked.__init__

    @wraps(plain)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            plain(self, *args, **values)
        except ValidationError as problem:
            raise UserError(complaint(kind, problem)) from None

    checked.__init__ = init  # type: ignore[method-assign]
    return checked


def is_settings(kind: type) -> bool:
    """Whether the class itself, not a base of it alone, was made by ``settings``."""
    return is_dataclass(kind) and "__pydantic_validator__" in kind.__dict__


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
    "unexpected_keyword_argument": lambda at: "is unknown",
}
"""pydantic's kinds of error in our words; any other is told in its own."""


def complaint(kind: type, problem: ValidationError) -> str:
    """The first of what pydantic found: field, what it must be, what it is."""
    first = problem.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or kind.__name__
    said = first["msg"].replace("Input should be", "must be")
    words = BOUND[first["type"]](first.get("ctx", {})) if first["type"] in BOUND else said
    if first["type"] == "unexpected_keyword_argument":
        known = ", ".join(one.name for one in fields(kind)) if is_dataclass(kind) else ""
        return f"{kind.__name__} has no field {place!r}; it has {known}"
    return f"{place} {words}, got {first['input']!r}"
