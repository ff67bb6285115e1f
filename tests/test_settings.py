"""Settings keep to their fields, types and bounds, however they are made."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import pytest

from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.recipes.kit import Optimization, PositiveFloat, PositiveInt, UnitInterval, settings
from selfteach.recipes.r01_opsd import OPSD
from selfteach.settings import is_settings


@settings
class Inner:
    width: PositiveInt = 2


@settings
class Outer:
    inner: Inner = Inner()
    share: UnitInterval = 0.5
    rate: PositiveFloat | None = None
    kind: Literal["none", "some"] | None = "some"
    name: str = "x"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shar": 0.5}, "Outer has no field 'shar'; did you mean share"),
        ({"width": 3}, r"it stands in inner=Inner\(width=…\)"),
        ({"share": 1.5}, "share must be at most 1, got 1.5"),
        ({"share": -0.1}, "share must be 0 or more, got -0.1"),
        ({"share": math.nan}, "share"),
        ({"rate": math.inf}, "rate must be a finite number"),
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": "fast"}, "rate must be a number"),
        ({"kind": "other"}, "kind must be 'none' or 'some'"),
        ({"name": 5}, "name must be a valid string"),
        ({"inner": 5}, "inner"),
        ({"name": ["x"] * 10_000}, "name"),
    ],
)
def test_what_a_field_may_not_be_is_refused_in_one_line(values: dict[str, Any], said: str) -> None:
    for make in (lambda: Outer(**values), lambda: replace(Outer(), **values)):
        with pytest.raises(UserError, match=said) as refused:
            make()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300


def test_words_and_numbers_of_files_are_read() -> None:
    read = Outer(share="0.25", rate="1e-4", inner=Inner(width="3"))  # type: ignore[arg-type]
    assert (read.share, read.rate, read.inner.width) == (0.25, 1e-4, 3)
    assert Outer(rate="none", kind="none") == Outer(rate=None, kind="none")  # type: ignore[arg-type]


def test_a_default_out_of_bounds_is_no_default() -> None:
    @settings
    class Wrong:
        share: UnitInterval = 1.5

    with pytest.raises(UserError, match="share must be at most 1"):
        Wrong()


def test_a_field_without_default_is_asked_for() -> None:
    @settings
    class Needy:
        share: UnitInterval

    with pytest.raises(UserError, match="Needy needs 'share'"):
        Needy()  # type: ignore[call-arg]


def test_the_natural_mistake_is_answered_with_where_the_knob_stands() -> None:
    with pytest.raises(UserError, match=r"it stands in optimization=Optimization\(lr=…\)"):
        OPSD(lr=1e-3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", RECIPES)
def test_no_number_of_a_recipe_may_be_none_that_is_a_number(name: str) -> None:
    recipe = RECIPES[name]()
    assert is_settings(type(recipe))
    numbers = {one.name for one in fields(recipe) if isinstance(getattr(recipe, one.name), float)}
    for field in numbers:
        for value in (math.nan, math.inf, "x"):
            with pytest.raises(UserError, match=field):
                replace(recipe, **{field: value})
    for one in fields(Optimization):
        assert not is_dataclass(getattr(Optimization(), one.name))


def test_a_field_of_any_type_holds_what_the_user_brings() -> None:
    @settings
    class Holder:
        rows: Any = None
        name: Any = None

    brought = [{"x": 1e300, "y": 2**70, "z": "\0"}]
    assert Holder(rows=brought).rows is brought
    with pytest.raises(UserError, match="name must be text without a NUL"):
        Holder(name="a\0b")
