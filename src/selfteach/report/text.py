"""Untrusted text and numbers, made fit to be read: nothing hidden, nothing reordered, nothing endless."""

from __future__ import annotations

import itertools
import math
import unicodedata

from markupsafe import Markup, escape

FOLD_CHARACTERS, FOLD_LINES = 700, 14
MOST_NAME, MOST_TITLE = 80, 2_000
"""Characters of a name that stand on the page; of its full text in a tooltip (a longer one is folded out)."""
LARGEST_DRAWN = 1e150
CUT_CHARACTERS = 20_000
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LETTER_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji are written with these


def visible(text: str) -> str:
    r"""``text`` with every control, bidi, zero-width or unassigned character as an escape such as ``\u{202e}``."""
    if (
        text.replace("\n", "").replace("\t", "").isprintable()
    ):  # almost every text, and a hundred times faster
        return text
    return "".join(rf"\u{{{ord(c):x}}}" if is_hidden(c) else c for c in text)


def is_hidden(character: str) -> bool:
    return (
        character not in "\n\t"
        and character not in LETTER_JOINERS
        and unicodedata.category(character) in HIDDEN
    )


def marked(text: str) -> Markup:
    """``text`` as inert HTML, its hidden characters as escapes that look different from the text around them."""
    stretches = ((hidden, "".join(part)) for hidden, part in itertools.groupby(text, is_hidden))
    escaped = Markup('<span class="hidden-character">{}</span>')
    return Markup("").join(escaped.format(visible(t)) if hidden else escape(t) for hidden, t in stretches)


def block(text: str) -> Markup:
    """A text as a block: whole if it is short, folded if it is long, cut (and said so) if it is endless."""
    if not text:
        return Markup('<p class="empty">(nothing)</p>')
    body = Markup('<pre dir="auto">{}</pre>').format(marked(text[:CUT_CHARACTERS]))
    if len(text) > CUT_CHARACTERS:
        body += Markup('<p class="empty">Cut here: {} more characters are in the run folder.</p>').format(
            number(len(text) - CUT_CHARACTERS)
        )
    if len(text) <= FOLD_CHARACTERS and text.count("\n") < FOLD_LINES:
        return body
    opening = "\n".join(text.split("\n")[:3])[:160]
    return Markup(
        '<details class="long"><summary><span dir="auto">{} …</span> ({} characters)</summary>{}</details>'
    ).format(marked(opening), number(len(text)), body)


def clip(text: object, most: int = MOST_NAME) -> Markup:
    """A name of any length on one line: its beginning, the whole in a tooltip."""
    whole = str(text)
    if len(whole) <= most:
        return marked(whole)
    return Markup('<span class="clip" title="{}">{}…</span>').format(
        cut(whole, MOST_TITLE), marked(whole[:most])
    )


def name(text: object, most: int = MOST_NAME) -> Markup:
    """``clip``, where there is room for more: a name too long for a tooltip can be folded out."""
    whole = str(text)
    if len(whole) <= MOST_TITLE:
        return clip(whole, most)
    return block(whole)


def cut(text: str, most: int) -> str:
    """``visible`` text of at most ``most`` characters, and how many more there were."""
    left = len(text) - most
    return visible(text) if left <= 0 else f"{visible(text[:most])} … ({number(left)} more characters)"


def number(value: object) -> str:
    """A value for a table: 24,800 · 0.312 · 3e-06 · NaN · ∞ · none; what is no number as it is."""
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) >= 10**300:
        return "beyond 1e300" if value > 0 else "below −1e300"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}"
    return text if "e" in text else text.replace("-", "−")


def size(count: float) -> str:
    """Bytes as GB, MB or kB."""
    for unit, letters in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= unit:
            return f"{number(count / unit)} {letters}"
    return f"{number(count)} bytes"


def measured(value: float, error: float | None = None) -> str:
    """A headline, with its standard error if there is one: three digits behind the point, or three digits in all where
    those would say little."""
    plain = value == 0 or 0.1 <= abs(value) < 1000 or not math.isfinite(value)
    shown = [f"{one:.3f}" if plain else f"{one:.3g}" for one in (value, error) if one is not None]
    return " ± ".join(shown)


def exact(value: object) -> str:
    """A setting's value, no digit lost."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return "none" if value is None else str(value)
    except (
        ValueError,
        RecursionError,
    ):  # an int of thousands of digits, alone or in a list; lists in lists in lists
        return "(cannot be written out)"


def drawable(value: float) -> bool:
    """Finite, and small enough that differences of such values are."""
    return abs(value) < LARGEST_DRAWN


def short(value: float) -> str:
    """A value for an axis: 25k, 1.5M, 0.25, 3e-4."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}".replace("-", "−")
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", "−")
    return number(float(f"{value:.6g}"))


def as_number(value: object) -> float | None:
    """A metric's value, ``"NaN"`` and its like included (run folders write them as strings); else None."""
    if value in ("NaN", "Infinity", "-Infinity") or (
        isinstance(value, int | float) and not isinstance(value, bool)
    ):
        try:
            return float(value)
        except OverflowError:
            return None
    return None
