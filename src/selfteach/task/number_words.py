"""Words behind a number that are no unit: some scale it (5 million), others go on or deny it (5 or six, 5 wrong)."""

from __future__ import annotations

import re
from fractions import Fraction

_PARTS = (
    "half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth hundredth thousandth millionth"
)
_OF_PARTS = (*range(2, 13), 100, 1000, 10**6)
SCALES = {
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    "lakh": Fraction(10**5),
    "million": Fraction(10**6),
    "crore": Fraction(10**7),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "quadrillion": Fraction(10**15),
    "dozen": Fraction(12),
    "score": Fraction(20),
    "gross": Fraction(144),
    "halve": Fraction(1, 2),
    **{name: Fraction(1, n) for name, n in zip(_PARTS.split(), _OF_PARTS, strict=True)},
}
"""What a number is multiplied by that such a word follows; in the singular. Quarters are coins as often as parts."""

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
_OTHERWISE = (
    "or and but not no nor never then else if when where unless except without for to is isn't isnt are aren't was "
    "wasn't be wrong incorrect false untrue mistaken invalid actually instead rather maybe perhaps possibly probably "
    "nope wait sorry oops twice thrice"
)
_OPERATIONS = (
    "plus minus times over divided multiplied mod modulo point factorial double doubled tripled halved negated "
    "inverted power negative mil kilo mega giga pi tau sqrt"
)
_NO_UNIT = frozenset(f"{_NUMBERS} {_OTHERWISE}".split()) | set(SCALES) | {f"{one}s" for one in SCALES}
_OPERATOR = frozenset(_OPERATIONS.split()) - {"times", "point", "power"}
_LEADING = frozenset(("squared", "cubed"))

_SCALE = re.compile(
    r"\s*(?P<open>\\(?:text|mathrm|textrm|mbox|textbf)[a-z]*\s*\{)?\s*(?P<word>[A-Za-z]+)(?![A-Za-z\-'])\s*(?:of\s+)?"
)


def goes_on(phrase: str) -> bool:
    """Whether words behind a number say more than what is counted: numbers, operations, doubts, denials.

    Words with a hyphen do not count (three-digit numbers), nor does ``squared`` behind a unit.
    """
    words = phrase.lower().split()
    known = (word.strip(".,'") for word in words)
    return words[:1] != [] and (
        words[0] in _LEADING or any(word in _NO_UNIT or word in _OPERATOR for word in known)
    )


def scaled(text: str) -> tuple[Fraction, str]:
    """(factor, what follows) of what stands behind a number: (10**6, "people") of "million people"."""
    factor = Fraction(1)
    while True:
        found = _SCALE.match(text)
        word = found["word"].lower() if found else ""
        scale = SCALES.get(word) or SCALES.get(word.removesuffix("s"))
        if found is None or scale is None:
            return factor, text.strip()
        factor *= scale
        text = text[found.end() :]
        if found["open"]:
            text = text[1:] if text.startswith("}") else found["open"] + text
