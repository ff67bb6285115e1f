"""How numbers and texts are said: the same in messages, progress and pages."""

from __future__ import annotations

import pytest

from selfteach.errors import LONGEST, UserError
from selfteach.wording import counted, duration, shortened


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"),
        (0.4, "0.4 s"),
        (47.06, "47.1 s"),
        (99.96, "100 s"),
        (119.6, "2 min 0 s"),
        (750, "12 min 30 s"),
        (3599.7, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (47 * 3600, "47 h 0 min"),
        (52 * 3600, "2 days 4 h"),
        (float("nan"), "nan s"),
        (1e300, "1e+300 s"),
        (-5, "-5 s"),
    ],
)
def test_seconds_are_told_in_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abc … ijk"
    for most in range(5, 40):
        assert len(shortened("x" * 100, most)) <= most
    assert len(str(UserError("x" * 5000))) <= LONGEST


def test_one_is_singular() -> None:
    assert [counted(n, "row") for n in (0, 1, 2400)] == ["0 rows", "1 row", "2,400 rows"]
    assert counted(2, "copy", "copies") == "2 copies"
