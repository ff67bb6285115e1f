"""Units of measurement behind a number: what they measure, and how many of the basic unit they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from selfteach.task.number_words import goes_on

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """``known``: of the table; else ``dimension`` and ``factor`` say nothing, as with apples.

    ``words``: what is counted, without plural; empty if that may be anything (units).
    """

    known: bool
    dimension: Dimension = ()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()


def alike(one: Unit, other: Unit) -> bool:
    """Whether two units measure the same, or the words of one are among the other's (apples, red apples)."""
    if one.known and other.known:
        return one.dimension == other.dimension
    return not one.words or not other.words or one.words <= other.words or other.words <= one.words


def _table() -> Mapping[str, tuple[Dimension, Fraction]]:
    """Names without plural → (what is measured, factor)."""
    found: dict[str, tuple[Dimension, Fraction]] = {}

    def add(kind: str, power: int = 1, **names: str) -> None:
        for factor, spelled in names.items():
            number = Fraction(factor.lstrip("f").replace("_", "/").replace("p", "."))
            for name in spelled.split():
                found[name.replace("-", " ")] = (((kind, power),), number)

    add("length", f1="m meter metre", f0p01="cm centimeter centimetre", f0p001="mm millimeter millimetre")
    add("length", f1000="km kilometer kilometre", f0p1="dm decimeter decimetre", f0p0254="in inch inches")
    add("length", f0p3048="ft foot feet", f0p9144="yd yard", f1609p344="mi mile", f0p000000001="nm nanometer")
    add(
        "mass",
        f1="g gram",
        f1000="kg kilogram",
        f0p001="mg milligram",
        f1000000="ton tonne",
        f453p59237="lb lbs pound",
    )
    add("mass", f28p349523125="oz ounce")
    add(
        "time",
        f1="s sec second",
        f60="min minute",
        f3600="h hr hour",
        f86400="day",
        f604800="week",
        f0p001="ms",
    )
    add("year", f1="yr year", f1_12="month")
    add("volume", f1="L l liter litre", f0p001="mL ml milliliter millilitre", f3p785411784="gal gallon")
    add("angle", f1="degree deg", f1_60="arcminute", f1_3600="arcsecond")
    add("radian", f1="rad radian")
    add("celsius", f1="C celsius")
    add("fahrenheit", f1="F fahrenheit")
    add("kelvin", f1="K kelvin")
    add("force", f1="N newton")
    add("energy", f1="J joule", f1000="kJ kilojoule", f4184="kcal", f4p184="cal calorie")
    add("power", f1="W watt", f1000="kW kilowatt", f1000000="MW megawatt")
    add("pressure", f1="Pa pascal", f1000="kPa", f101325="atm")
    add("flux density", f1="T tesla")
    add("inductance", f1="H henry")
    add("charge", f1="coulomb")
    add("voltage", f1="V volt", f1000="kV")
    add("current", f1="A amp ampere", f0p001="mA")
    add("resistance", f1="ohm")
    add("amount", f1="mol mole")
    add("frequency", f1="Hz hertz", f1000="kHz", f1000000="MHz", f1000000000="GHz")
    add("data", f1="byte B", f1000="kB KB", f1000000="MB", f1000000000="GB")
    add("dollar", f1="dollar USD $ \\$", f0p01="cent")
    add("euro", f1="euro EUR €")
    add("pound", f1="GBP £ \\pounds")
    add("yen", f1="yen ¥")
    add("rupee", f1="rupee Rs ₹")
    return found


TABLE = _table()
COMPOUND = {
    "mph": ((("length", 1), ("time", -1)), TABLE["mile"][1] / 3600),
    "kmh": ((("length", 1), ("time", -1)), Fraction(1000, 3600)),
    "kph": ((("length", 1), ("time", -1)), Fraction(1000, 3600)),
}
_ABBREVIATED = "cm mm km kg mg ft yd mi lb lbs oz mL ml dm in min hr sec rad mph kmh Hz kHz kPa Pa kJ kW mol"
ATTACHED = frozenset(_ABBREVIATED.split())
"""Abbreviations that may stand right behind a number. A single letter there is a variable: 3t is no three tonnes."""

_WRAPPED = re.compile(r"\\(?:text|mathrm|textrm|mbox|operatorname|textbf)[a-z]*\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\s*\{)?\s*([CF]?)\s*\}?")
_POWER = re.compile(r"\s*\^\s*\{?\s*(-?\d)\s*\}?")
_ORDINAL = re.compile(r"\^?\s*\{?\s*(?:\\(?:text|mathrm)\s*\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}")
_HALF_DAY = re.compile(r"[ap]\.?\s?m\.?", re.IGNORECASE)
_NAME = re.compile(r"\\?[A-Za-z$€£¥₹.]+")
_COMMAND = re.compile(r"\\(?!cdot|pounds)[A-Za-z]")
_STOP = frozenset(("or", "and", "if", "when", "for", "where", "to", "x", "y", "z"))
MAX_CHARS = 60


def unit_of(text: str, attached: bool) -> Unit | None:
    """The unit that all of ``text`` is; one that is not ``known`` for other nouns (apples); None for anything else.

    ``attached``: whether it follows the number without a space.
    """
    if len(text) > MAX_CHARS:
        return None
    if _HALF_DAY.fullmatch(text):
        return None
    if _ORDINAL.fullmatch(text):
        return Unit(False)
    degrees = _DEGREES.fullmatch(text)
    if degrees:
        return _unit(degrees.group(1) or "degree")
    wrapped = _WRAPPED.search(text) is not None
    if _COMMAND.search(_WRAPPED.sub("", text)):
        return None
    plain = _WRAPPED.sub(r" \1 ", text).replace("\\cdot", "*").replace("\\", "").strip()
    if not wrapped and attached and plain not in ATTACHED and not _compound_after_number(plain):
        return None
    known = _compound(plain)
    if known is not None:
        return replace(known, words=_words(plain))
    return Unit(False, words=_words(plain)) if _is_noun(plain, wrapped) else None


_ANY = frozenset(("unit", "sq", "square", "cubic"))
_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse"}
_ENDING = re.compile(r"(?:ies|ie|y)$")


def _words(plain: str) -> frozenset[str]:
    """The words of a unit, alike for one and many, for cm and centimeters; none of units, square units."""
    found = frozenset(map(_stem, re.findall(r"[A-Za-z]+", plain)))
    return frozenset() if _stem("unit") in found and found <= set(map(_stem, _ANY)) else found


def _stem(word: str) -> str:
    """berry of berries, box of boxes; no word, but the same for both."""
    known = _known(word)
    if known is not None:
        return f"{known}"
    word = _IRREGULAR.get(word.lower(), word.lower())
    if len(word) > 3 and not word.endswith("ss"):
        word = re.sub("(?:es|s|e)$", "", _ENDING.sub("i", word))
    return word


_WRAPPED_BEHIND = re.compile(r"\s*(\\(?:text|mathrm|mbox)[a-z]*\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?)$")
_PLAIN_BEHIND = re.compile(r"(?<=[\d})])\s*([A-Za-z][A-Za-z/]*(?:\s*\^\s*\{?\d\}?)?)$")


def without_unit(text: str) -> tuple[str, Unit | None]:
    """(the expression, its unit) of ``2\\pi\\text{ cm}`` or ``3\\sqrt{2} cm``; (text, None) if there is no unit."""
    degrees = re.search(r"\^\s*\{?\s*\\circ\s*\}?\s*$", text)
    if degrees and degrees.start():
        return text[: degrees.start()].strip(), _unit("degree")
    match = _WRAPPED_BEHIND.search(text) or _PLAIN_BEHIND.search(text)
    if match is None:
        return text, None
    before, name = text[: match.start()].strip(), match.group(1)
    unit = unit_of(name, attached=not text[match.start(1) - 1].isspace())
    if unit is None or not before or before.endswith(tuple("+-*/=,<>(")):
        return text, None
    return (before, unit) if unit.known or name.startswith("\\") else (text, None)


def _compound_after_number(plain: str) -> bool:
    name = re.match(r"[A-Za-z]+", plain)
    return name is not None and name.group() in ATTACHED


def _is_noun(plain: str, wrapped: bool) -> bool:
    """Words that count things; a letter alone is none, nor are words that go on with the number or deny it."""
    if goes_on(plain) or (len(plain) == 1 and plain.isalpha()) or set(plain) <= set("xyzie"):
        return False
    words = re.split(r"[\s\-]+", _POWER.sub("", plain))
    if not words or any(not re.fullmatch(r"[A-Za-z.'/]+", word) or word.lower() in _STOP for word in words):
        return False
    return wrapped or all(len(word) > 2 or word.lower() in ("of", "a", "in") for word in words)


def _compound(plain: str) -> Unit | None:
    """A product of known units with powers: m/s^2, square feet, miles per hour."""
    plain = re.sub(r"\bper\b", "/", plain)
    dimension: dict[str, int] = {}
    factor, sign, scale, position = Fraction(1), 1, 1, 0
    seen = False
    while position < len(plain):
        if plain[position] in " *·{}":
            position += 1
        elif plain[position] == "/" and seen:
            sign, position = -1, position + 1
        else:
            name = _NAME.match(plain, position)
            if name is None:
                return None
            position = name.end()
            if name.group().lower() in _POWERS:
                scale = _POWERS[name.group().lower()]
                continue
            found = _known(name.group())
            power = _POWER.match(plain, position)
            if found is None:
                return None
            position = power.end() if power else position
            exponent = sign * (int(power.group(1)) if power else scale)
            scale, seen = 1, True
            for kind, own in found[0]:
                dimension[kind] = dimension.get(kind, 0) + own * exponent
            factor *= found[1] ** exponent
    if not seen or scale != 1:
        return None
    return Unit(True, tuple(sorted((kind, power) for kind, power in dimension.items() if power)), factor)


_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}


def _known(name: str) -> tuple[Dimension, Fraction] | None:
    name = name.rstrip(".") or name
    for spelled in (name, name.lower(), name.removesuffix("s"), name.lower().removesuffix("s")):
        if spelled in COMPOUND:
            return COMPOUND[spelled]
        if spelled in TABLE and (len(spelled) > 1 or spelled == name):
            return TABLE[spelled]
    return None


def _unit(name: str) -> Unit:
    dimension, factor = TABLE[name]
    return Unit(True, dimension, factor)
