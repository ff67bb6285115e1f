"""Numbers as people write them, read exactly: a fraction, and what stands beside it (percent, unit, base).

Only arithmetic on whole numbers of bounded size; what is no plain number is left to computer algebra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from selfteach.task.number_words import scaled
from selfteach.task.units import Unit, alike, unit_of

MAX_EXPONENT = 4000
"""Powers beyond it are not worked out."""
DIGITS = 6
"""So many decimals, or digits where the number is small or in scientific notation, make a rounded number count."""
SMALL = Fraction(1, 1000)


@dataclass(frozen=True)
class Number:
    """``value``, before percent, unit and base are heeded.

    ``decimals``: digits after the point as it is written (less the exponent), None of fractions and powers;
    ``digits``: significant ones; ``scientific``: with a power of ten. ``base``: None for ten by default.
    """

    value: Fraction
    decimals: int | None = None
    digits: int = 0
    scientific: bool = False
    percent: bool = False
    unit: Unit | None = None
    base: int | None = None


_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?:[ ]\d{3})+(?![ ]?\d)|\d+)"
_NUMBER = re.compile(
    rf"""(?P<sign>(?:[+-]\ ?)*)
    (?P<currency>\\?[$€£¥₹]|\\pounds)?\ ?(?P<inner>-\ ?)?
    (?:
        \\frac\ ?\{{(?P<top>-?\ ?{_INTEGER})\}}\ ?\{{(?P<bottom>-?\ ?{_INTEGER})\}}
      | (?P<whole>{_INTEGER})\ ?\\frac\ ?\{{(?P<top2>\d+)\}}\ ?\{{(?P<bottom2>\d+)\}}
      | (?P<top3>{_INTEGER})\ ?(?:/|\\div|:)\ ?(?P<bottom3>{_INTEGER})
      | (?P<fixed>\d*\.\d*)\\overline\ ?\{{(?P<repeated>\d+)\}}
      | (?P<decimal>{_INTEGER}(?:\.\d*)?|\.\d+)
        (?:\ ?(?:\\times|\\cdot)\ ?10\ ?\^\ ?\{{\ ?(?P<exponent>[+-]?\d+)\ ?\}})?
        (?:\ ?\^\ ?\{{\ ?(?P<power>[+-]?\d+)\ ?\}})?
        (?:\ ?_\ ?\{{?(?:\\text\ ?\{{)?\ ?(?P<base>\d+|two|eight|ten|sixteen)\ ?\}}{{0,2}})?
    )""",
    re.VERBOSE,
)
_BASED = re.compile(
    r"(-?)\s*([0-9A-Fa-f ]+)\s*_\s*\{?(?:\\text\s*\{)?\s*(\d{1,2}|two|eight|ten|sixteen)\s*\}{0,2}"
)
_GROUPED = re.compile(r"\w{1,4}(?: \w{4})+|\w{1,3}(?: \w{3})+")
_BASES = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|percent|per cent)\s*\}|percent|per cent|pct)\s*")


def read_number(text: str) -> Number | None:
    """The number that all of ``text`` (as ``plain.latex_of`` gives it) is, with its unit if any; None if it is none."""
    text = _without_parentheses(text)
    based = _BASED.fullmatch(text)
    if based:
        return _in_base(*based.groups())
    match = _NUMBER.match(text)
    if match is None or match["base"]:
        return None
    behind = text[match.end() :]
    factor, rest = scaled(behind) if behind[:1] in (" ", "\\") else (Fraction(1), behind.strip())
    percent = _PERCENT.fullmatch(rest)
    unit = None if percent or not rest else unit_of(rest, attached=behind[0].isalpha())
    if rest and not percent and unit is None:
        return None
    if match["currency"]:
        unit = unit or unit_of(match["currency"], attached=False)
    negative = (match["sign"].count("-") + bool(match["inner"])) % 2
    number = _read(match, -1 if negative else 1, percent is not None, unit)
    return number if number is None or factor == 1 else _times(number, factor)


def _times(number: Number, factor: Fraction) -> Number:
    """5 million; its decimals are those of 5000000."""
    zeros = len(str(factor)) - 1
    decimals = None if number.decimals is None or factor != 10**zeros else number.decimals - zeros
    return replace(number, value=number.value * factor, decimals=decimals)


def _without_parentheses(text: str) -> str:
    inner = text[1:-1].strip()
    plain = text.startswith("(") and text.endswith(")") and not set(inner) & set("(),;[]")
    return inner if plain else text


def _in_base(sign: str, digits: str, named: str) -> Number | None:
    base = _BASES.get(named) or int(named)
    if " " in digits.strip() and not _GROUPED.fullmatch(digits.strip()):
        return None
    try:
        value = int(digits.replace(" ", ""), base)
    except ValueError:  # a digit that the base has not, or a base beyond 36
        return None
    return Number(Fraction(-value if sign else value), decimals=0, base=base)


def _read(match: re.Match[str], sign: int, percent: bool, unit: Unit | None) -> Number | None:
    def whole(name: str) -> int:
        return int(re.sub("[, ]", "", match[name] or "0"))

    top, bottom = next(((t, b) for t, b in _FRACTIONS if match[t]), (None, None))
    if top is not None and bottom is not None:
        if whole(bottom) == 0:
            return None
        return Number(
            sign * (whole("whole") + Fraction(whole(top), whole(bottom))), percent=percent, unit=unit
        )
    if match["repeated"]:
        return Number(sign * _repeating(match["fixed"], match["repeated"]), percent=percent, unit=unit)
    exponent, power = int(match["exponent"] or 0), int(match["power"] or 1)
    written = re.sub("[, ]", "", match["decimal"])
    point = len(written.partition(".")[2])
    value = Fraction(written + "0" if written.endswith(".") else written)
    if abs(exponent) > MAX_EXPONENT or abs(power) * len(written) > MAX_EXPONENT or (value == 0 and power < 0):
        return None
    digits = len(written.replace(".", "").lstrip("0"))
    value = value**power * Fraction(10) ** exponent
    if match["power"]:
        return Number(sign * value, percent=percent, unit=unit)
    return Number(sign * value, point - exponent, digits, match["exponent"] is not None, percent, unit)


_FRACTIONS = (("top", "bottom"), ("top2", "bottom2"), ("top3", "bottom3"))


def _repeating(fixed: str, repeated: str) -> Fraction:
    places = len(fixed.partition(".")[2])
    start = Fraction(fixed.rstrip(".") or "0") if fixed != "." else Fraction(0)
    return start + Fraction(int(repeated), 10**places * (10 ** len(repeated) - 1))


def without_separators(text: str) -> str:
    """Blanks and commas between thousands left out."""
    return re.sub(_INTEGER, lambda found: re.sub("[, ]", "", found.group()), text)


_BROKEN = re.compile(r"(?<![_^\d.,\w])\d*\.?\d(?: ?['\"]| \d|\s*_|\s*\^\s*\{?\s*\\prime)")
_GROUPS = re.compile(r"(?<![\d.,_^])\d{1,3}(?: \d{3})+(?! ?\d)|(?<=\.)\d{3}(?: \d{3})*(?: \d{1,3})(?! ?\d)")


def joined(text: str) -> str:
    """Blanks between digits in groups of three left out."""
    return _GROUPS.sub(lambda found: found.group().replace(" ", ""), text)


def broken(text: str) -> bool:
    """Whether digits are followed by others behind a blank, by a prime or an index, so that no number can be read.

    Not behind an index (``\\log_2 8``). Of what is ``joined`` and ``read_number`` does not read: computer algebra takes
    ``1 2`` for 12 and ``5_2`` for 5.
    """
    return _BROKEN.search(text) is not None


def same_number(given: Number, reference: Number) -> bool:
    """Whether an answer is the reference.

    Exactly, or rounded at DIGITS decimals or later (of numbers below 1/1000 or with a power of ten: significant
    digits). A percent sign may be left out or written as a fraction of one, but not doubled: 12.5 and 0.125 are 12.5 %,
    and 12.5 % is 12.5, but 0.5 % is not 0.5. Units of one kind are converted; a unit that one of the two lacks does not
    count. A base that the reference names may be left out, but must not differ.
    """
    if not _same_base(given, reference):
        return False
    if any(
        one.percent and other.unit and other.unit.known
        for one, other in ((given, reference), (reference, given))
    ):
        return False
    if given.unit and reference.unit and not alike(given.unit, reference.unit):
        return False
    if given.unit and reference.unit and given.unit.known and reference.unit.known:
        factor = given.unit.factor / reference.unit.factor
        if factor != 1:
            return given.value * factor == reference.value
    return any(_close(one, other) for one, other in _percent_readings(given, reference))


def _same_base(given: Number, reference: Number) -> bool:
    if reference.base is None:
        return given.base in (None, 10)
    if given.base is None:  # the same digits, read in the base that was asked for
        return True
    return given.base == reference.base


def _percent_readings(given: Number, reference: Number) -> list[tuple[Number, Number]]:
    """The pairs of plain numbers of which one must agree."""
    if reference.base is not None and given.base is None:
        return [(_digits_in(given, reference.base), reference)]
    readings = [(given, reference)]
    if reference.percent and not given.percent:
        readings.append((given, _hundredth(reference)))
    elif given.percent and not reference.percent:
        as_written = [(given, reference)] if abs(reference.value) >= 1 else []
        readings = [(_hundredth(given), reference), *as_written]
    return readings


def _digits_in(number: Number, base: int) -> Number:
    """A number without a base, its digits read in ``base``; one that can be none stays apart from all."""
    try:
        return Number(Fraction(int(str(number.value), base)), decimals=0)
    except ValueError:
        return Number(Fraction(-1, 7))


def _hundredth(number: Number) -> Number:
    decimals = None if number.decimals is None else number.decimals + 2
    return Number(number.value / 100, decimals, number.digits, number.scientific)


def _close(one: Number, other: Number) -> bool:
    if one.value == other.value:
        return True
    return _is_rounded(one, other) or _is_rounded(other, one)


def _is_rounded(short: Number, exact: Number) -> bool:
    """Whether ``short`` is ``exact``, rounded to the decimals that it is written with, and these are enough."""
    if short.decimals is None or (exact.decimals is not None and exact.decimals <= short.decimals):
        return False
    small = short.scientific or abs(exact.value) < SMALL
    enough = short.digits >= DIGITS if small else short.decimals >= DIGITS
    unit = Fraction(10) ** -short.decimals
    return enough and abs(short.value - exact.value) * 2 <= unit
