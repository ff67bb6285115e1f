"""What kind of answer a reference is, and so what an answer must be to equal it: words are not products of letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from selfteach.task.number import read_number
from selfteach.task.plain import FUNCTIONS, GREEK, latex_of, unframed

AnswerType = Literal["number", "expression", "equation", "interval", "tuple", "set", "choice", "text"]


def infer_type(reference: str) -> AnswerType:
    """The type of a reference answer, by how it is written.

    choice: (B), "B. 7", a capital from A to J · number: 3, 1/2, 5 cm, 1011_2, 6.6e-34 · text: words, orders of letters
    (CAB), times · interval: [1,2), unions of such, anything up to infinity · tuple: (1,2) · set: {1,2} · and lists
    (1, 2; x=1 or x=2; ±2) · equation: also inequalities · expression: all else, products of variables (ab, xyz) among
    them.
    """
    bare = unframed(reference)
    if choice_of(bare) is not None:
        return "choice"
    text = latex_of(reference)
    if is_words(bare):
        return "text"
    if read_number(text) is not None:
        return "number"
    if bracketed(text) is not None:
        return _type_in_brackets(text)
    if "\\cup" in text and _INTERVAL.fullmatch(text):
        return "interval"
    if text.startswith("\\{") or len(split_list(text)) > 1 or _ONE_SIGN.search(text):
        return "set"
    return "equation" if _RELATION.search(text) else "expression"


def _type_in_brackets(text: str) -> AnswerType:
    items = bracketed(text) or []
    if len(items) == 2 and text[0] != "\\" and (set("[]") & {text[0], text[-1]} or "\\infty" in text):
        return "interval"
    return "tuple"


def types_of(references: Iterable[str]) -> dict[str, int]:
    """How many references are of each type, the most frequent first."""
    return dict(Counter(infer_type(one) for one in references).most_common())


# --- choices ----------------------------------------------------------------------------------------------------------

_CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?(?:"
    r"\(?\s*(?P<alone>[A-J])\s*\)?[.:]?"
    r"|\(\s*(?P<round>[A-J])\s*\)\s*[.:]?\s+(?P<after>\S.*)"
    r"|(?P<point>[A-J])\s*[.):]\s+(?P<after2>\S.*)"
    r")",
    re.DOTALL,
)
_MARKUP = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_BLANKS = re.compile(r"(?:\\[,;:! ]|~|\\q?quad(?![A-Za-z])|\*\*|\s)+")


def without_markup(text: str) -> str:
    """``\\text{…}`` and the like opened, kinds of blanks made one."""
    return _BLANKS.sub(" ", _MARKUP.sub(r"\1", _MARKUP.sub(r"\1", text))).strip()


def choice_of(text: str) -> tuple[str, str] | None:
    """(letter, the option's text if given) of an answer that is the letter of an option; None if it is none."""
    found = _CHOICE.fullmatch(without_markup(text))
    if found is None:
        return None
    letter = found["alone"] or found["round"] or found["point"]
    after = (found["after"] or found["after2"] or "").strip()
    return None if _JOINED.match(after) else (letter, after)


_JOINED = re.compile(r"(?:and|or|but|nor|&|,)\s*\(?[A-J]\b")
_ANOTHER = re.compile(
    r"\(\s*[A-J]\s*\)|(?<![^\W_])[A-J]\s*[.):]\s|^\W*(?:[Oo]ption\s+)?[A-J]\W*$|^(?:and|or|but|nor)\b"
    r"|^is (?:not|wrong|incorrect)\b"
    r"|(?:[,;/&+]|\b(?:and|or|but|not|nor|than|[Oo]ption))\s*(?:[Oo]ption\s+)?[A-J]\s*(?:[.,;:!?)]|$)"
)
_OF_OTHERS = re.compile(r"(?:[Bb]oth|[Ee]ither|[Nn]either)\s+\(?([A-J])\)?\s+(?:and|or|nor)\s+\(?([A-J])\)?")


def names_another(letter: str, after: str) -> bool:
    """Whether what an answer has behind an option's letter names options; "both A and B" is the text of one."""
    others = _OF_OTHERS.fullmatch(after)
    return not (others and letter not in others.groups()) and _ANOTHER.search(after) is not None


# --- words ------------------------------------------------------------------------------------------------------------

_TIME = re.compile(
    r"\d{1,2}:[0-5]\d(?::[0-5]\d)?\s*(?:[ap]\.?\s?m\.?)?|\d{1,2}\s*[ap]\.?\s?m\.?", re.IGNORECASE
)
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}\.\d{1,2}\.\d{2,4}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FIGURE = re.compile(r"\\(?:triangle|angle)\s*[A-Z]{2,}")
_RUN = re.compile(r"[^\W\d_]+")
_SYLLABLES = re.compile(r"[a-z]{2,}(?: [a-z]{2,})+")
_CONNECTORS = frozenset({"and", "or"})
_KNOWN = FUNCTIONS | {
    "sqrt",
    "cbrt",
    "inf",
    "infinity",
    "oo",
    "mod",
    *GREEK,
    "asin",
    "acos",
    "atan",
    "emptyset",
}
_OF_TWO_LETTERS = "no on up in is it we us me my he go do so to of or if as by be am an hi ox"
_SHORT_WORDS = frozenset(_OF_TWO_LETTERS.split())
_FAMILIES = tuple(map(frozenset, ("abcd", "pqrst", "uvwxyz", "klmn", "abxy", "abcxyz")))


def is_words(text: str) -> bool:
    """Whether a reference is text: words, letters in an order, a time or a date, rather than mathematics."""
    text = without_markup(text)
    if _TIME.fullmatch(text) or _DATE.fullmatch(text) or _FIGURE.fullmatch(text):
        return True
    if _COMMAND.search(text) or set(text) & set("=<>^_{}[]\\") or read_number(latex_of(text)) is not None:
        return False
    items = [item.strip(" ()") for item in re.split(r"[,;]|\b(?:and|or)\b", text)]
    if len(items) > 1 and all(_is_short(item) or not item for item in items):
        return False  # a list: its items are looked at one by one
    return any(_is_word(run) for run in _RUN.findall(text)) or bool(_SYLLABLES.fullmatch(text))


def _is_short(text: str) -> bool:
    """One item of a list that is not a sentence."""
    return len(text.split()) <= 2


def _is_word(run: str) -> bool:
    if run.lower() in _KNOWN or run in _CONNECTORS or len(run) == 1:
        return False
    return not _is_product(run)


def _is_product(run: str) -> bool:
    """Letters that are multiplied: ``ab``, ``xyz``, ``mgh``, ``nRT``; not ``on``, ``cat``, ``CAB``, ``NE``."""
    if not run.isascii():
        return False
    if not run.islower():
        return not run.isupper() and not run.istitle() and len(run) <= 4
    if len(run) == 2:
        return run not in _SHORT_WORDS
    letters = set(run)
    if len(letters) == len(run) and any(letters <= family for family in _FAMILIES):
        return run[0] == "a" or "a" not in letters
    return len(run) == 3 and not letters & set("aeiouy")


# --- lists, intervals -------------------------------------------------------------------------------------------------

_INTERVAL = re.compile(r"[(\[].*,.*[)\]]", re.DOTALL)
_ONE_SIGN = re.compile(r"\\pm(?![A-Za-z])")
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|ne|lt|gt|in|equiv)(?![A-Za-z])")
_BREAK = re.compile(
    r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\\(?:lor|vee)(?![A-Za-z])"
)
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")


def split_list(text: str) -> list[str]:
    """The items of a list at its top level, outside brackets: by commas, semicolons, ``and``, ``or``.

    A comma between groups of three digits is one of thousands where it is the only comma or is followed by no blank.
    """
    held = {m.start() + i for m in _THOUSANDS.finditer(text) for i, one in enumerate(m.group()) if one == ","}
    depth, begin, items, i = 0, 0, [], 0
    while i < len(text):
        one = text[i]
        if one in "([{":
            depth += 1
        elif one in ")]}":
            depth -= 1
        found = _BREAK.match(text, i) if depth == 0 and i not in held else None
        if found is not None:
            items.append(text[begin:i])
            begin = i = found.end()
        else:
            i += 1
    items.append(text[begin:])
    return [item.strip() for item in items if item.strip()]


def bracketed(text: str) -> list[str] | None:
    """The two or more items within the round, square or angle brackets that enclose all of ``text``; else None."""
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        return split_list(text[len("\\langle") : -len("\\rangle")])
    if not (text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text)):
        return None
    items = split_list(text[1:-1])
    return items if len(items) > 1 else None


def _encloses(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end."""
    depth = 0
    for i, one in enumerate(text):
        depth += (one in "([{") - (one in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False
