"""Whether two mathematical expressions are equal, by math-verify's grammar and computer algebra.

Runs in the checking process only: it may hang, or eat memory. What it says is right is looked at once more: its
comparisons round at fixed decimals, so that all very small numbers are alike to it, and it writes all letters small.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

ROUNDED = 1e-6
"""Where decimals are in play, numbers that differ by more than this share of them are not equal."""
EXACT = 1e-20
"""The same where there are none: what 50 digits may differ by."""
POINTS = ("0.731", "1.377", "2.191")


class Unreadable(Exception):
    """The text is no mathematics that the grammar knows."""


def same_expression(given: str, reference: str) -> bool:
    """Whether ``given`` equals ``reference``, both LaTeX.

    Raises Unreadable if one of them cannot be read; its argument says which: "reference" or "answer".
    """
    from math_verify import verify

    given, reference = _cases_apart(given, reference)
    right, answer = ([_derivatives_kept(one) for one in parsed(text)] for text in (reference, given))
    if not right:
        raise Unreadable("reference")
    if not answer:
        raise Unreadable("answer")
    if _is_equation(right[0]) and _is_equation(answer[0]):
        return _same_equation(right[0], answer[0])
    equal = verify(right, answer, timeout_seconds=None, allow_set_relation_comp=True)
    return bool(equal) and not _refuted(right[0], answer[0])


def _derivatives_kept(found: Any) -> Any:
    """``dx/dt`` as a symbol: x does not depend on t there, so that it and dy/dt would be nought."""
    from sympy import Basic, Derivative, Symbol

    if not isinstance(found, Basic):
        return found
    kept = (one for one in found.atoms(Derivative) if one.expr.is_Symbol and one.expr not in one.variables)
    return found.subs({one: Symbol(f"{one}") for one in kept})


def _is_equation(found: Any) -> bool:
    from sympy import Eq, Expr

    return isinstance(found, Eq) and isinstance(found.lhs, Expr) and isinstance(found.rhs, Expr)


def _same_equation(right: Any, answer: Any) -> bool:
    """Whether one equation is the other times a number: then they have the same solutions."""
    from sympy import simplify

    sides = [one.lhs - one.rhs for one in (right, _with_symbols_of(answer, right))]
    if sides[0].is_zero or sides[1].is_zero:
        return bool(sides[0] == sides[1])
    ratio = simplify((sides[0] / sides[1]).doit())
    return not ratio.free_symbols and not ratio.is_zero and bool(ratio.is_finite)


def _with_symbols_of(answer: Any, right: Any) -> Any:
    """Symbols of one name are one, whatever was assumed of them."""
    known = {symbol.name: symbol for symbol in right.free_symbols}
    return answer.subs({symbol: known.get(symbol.name, symbol) for symbol in answer.free_symbols})


def parsed(text: str) -> list[Any]:
    """SymPy objects only: math-verify's plain-text fall-backs are left out, words are compared elsewhere."""
    from math_verify import parse

    found: list[Any] = parse(
        f"\\boxed{{{text}}}", [_config()], fallback_mode="no_fallback", parsing_timeout=None
    )
    return found


@lru_cache(maxsize=1)
def _config() -> Any:
    """Without its units, among which are t, c and ab."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    )
    return LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)


_FONT = r"\\(?:text|math)(?:rm|bf|it|sf|tt|normal)?|\\boldsymbol|\\bm"
_LETTER = re.compile(
    rf"(?:{_FONT})\s*\{{\s*(?P<font>[A-Za-z])\s*\}}"
    r"|\\(?:begin|end|operatorname|text[a-z]*|math[a-z]+|mbox|overline|overrightarrow)\s*\{[^{}]*\}"
    r"|\\(?P<greek>Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|gamma|delta|theta|lambda|xi|pi|sigma|phi|psi|omega)"
    r"(?![A-Za-z])|\\[A-Za-z]+|(?P<letter>[A-Za-z])"
)
"""A letter, in a font or not; or a command, with its argument where that is a name and no expression."""


def _cases_apart(given: str, reference: str) -> tuple[str, str]:
    """Capitals whose small letter occurs too get a name of their own: R is not r, which the grammar takes for one."""
    known = {_letter(found) for text in (given, reference) for found in _LETTER.finditer(text)}
    mixed = {one for one in known if one[:1].isupper() and one.lower() in known}

    def renamed(text: str) -> str:
        return _LETTER.sub(lambda m: _renamed(_letter(m)) if _letter(m) in mixed else m.group(), text)

    return (renamed(given), renamed(reference)) if mixed else (given, reference)


def _letter(found: re.Match[str]) -> str:
    return found["font"] or found["greek"] or found["letter"] or ""


def _renamed(capital: str) -> str:
    small = capital.lower()
    return f"{{{small if len(small) == 1 else f'{chr(92)}{small}'}_{{777}}}}"


def _refuted(right: Any, answer: Any) -> bool:
    """Whether values show that two expressions differ that were taken for equal."""
    from sympy import Eq, Expr

    if isinstance(right, Eq) != isinstance(answer, Eq):
        right, answer = (one.rhs if isinstance(one, Eq) else one for one in (right, answer))
    if not (isinstance(right, Expr) and isinstance(answer, Expr)):
        return False
    names = sorted({symbol.name for one in (right, answer) for symbol in one.free_symbols})
    if len(names) > 8:
        return False
    shown = any(_differ(right, answer, names, shift) for shift in range(len(POINTS) if names else 1))
    return shown and not _vanishes(right - answer)


def _differ(right: Any, answer: Any, names: list[str], shift: int) -> bool:
    """Whether the two have clearly different values where the variables have the values of ``POINTS``."""
    from sympy import Abs, Float, Rational

    values = {name: Rational(POINTS[(shift + i) % len(POINTS)]) + i for i, name in enumerate(names)}
    try:
        a, b = (one.subs({s: values[s.name] for s in one.free_symbols}).evalf(50) for one in (right, answer))
        gap, size = Abs(a - b).evalf(), max(Abs(a).evalf(), Abs(b).evalf())
        decimals = any(one.has(Float) for one in (right, answer))
        if decimals and size > ROUNDED * 1000:
            size = max(size, 1)
        return bool(gap > size * (ROUNDED if decimals else EXACT))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False


def _vanishes(difference: Any) -> bool:
    """What 50 digits cannot tell from nought, such as the difference of two equal roots."""
    from sympy import simplify

    return bool(simplify(difference.doit()) == 0)
