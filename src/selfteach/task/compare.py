"""Whether a final answer is the reference, by the reference's type. Runs in the checking process."""

from __future__ import annotations

import re
import string

from selfteach.task.answer_type import (
    AnswerType,
    bracketed,
    choice_of,
    infer_type,
    is_words,
    names_another,
    split_list,
    without_markup,
)
from selfteach.task.number import broken, joined, read_number, same_number, without_separators
from selfteach.task.number_words import goes_on
from selfteach.task.plain import GREEK, latex_of, unframed
from selfteach.task.symbolic import Unreadable, parsed, same_expression
from selfteach.task.units import Unit, alike, without_unit

MAX_ITEMS = 64
MAX_DEPTH = 4
MAX_SIDES = 8


def compare(answer: str, reference: str, answer_type: AnswerType | None = None, depth: int = 0) -> bool:
    """Whether ``answer`` equals ``reference`` as an answer of ``answer_type`` (None: as the reference is written).

    Raises Unreadable, with the argument "reference" if that is what cannot be read.
    """
    kind = answer_type or infer_type(reference)
    if kind == "text":
        return words_of(answer) == words_of(reference)
    answer = _SAYING.sub("", answer)
    if kind == "choice":
        return _same_choice(answer, reference, depth)
    given, right = latex_of(_without_label(answer)), latex_of(reference)
    if _squeezed(given) == _squeezed(right):
        return True
    if depth < MAX_DEPTH:
        if kind == "set":
            return _same_set(given, right, depth)
        if kind == "tuple":
            return _same_tuple(given, right, depth)
        if kind == "interval":
            return _same_intervals(given, right, depth)
    if kind in ("number", "expression") and len(split_list(given)) > 1 and len(split_list(right)) == 1:
        return False  # one value was asked for
    return _same_value(given, right)


def readable(reference: str, answer_type: AnswerType | None = None) -> bool:
    """Whether the reference can be compared with anything but itself."""
    kind = answer_type or infer_type(reference)
    if kind in ("text", "choice"):
        return kind == "text" or choice_of(unframed(reference)) is not None
    right = latex_of(reference)
    if kind in ("set", "tuple"):
        items = _items(right) if kind == "set" else bracketed(right) or split_list(right)
        return bool(items) and all(readable(item) for item in items if item != right) and right != items[0]
    return _reads(_value_side(right))


def _reads(text: str) -> bool:
    return read_number(text) is not None or bool(parsed(without_unit(text)[0]))


# --- words and choices ------------------------------------------------------------------------------------------------

_EDGES = string.whitespace + ".,;:!?\"'*_`$"


_HALF_DAY = re.compile(r"\b([ap])\.?\s?m\b")


def words_of(text: str) -> str:
    """The words alone: without markup, case, runs of blanks, and what stands around them."""
    words = without_markup(unframed(text)).strip(_EDGES)
    return _HALF_DAY.sub(r"\1m", " ".join(words.casefold().replace("’", "'").split()))


def _same_choice(answer: str, reference: str, depth: int) -> bool:
    """By the letters; by the options' texts where the answer has no letter."""
    right = choice_of(unframed(reference))
    if right is None:
        return words_of(answer) == words_of(reference)
    bare = without_markup(unframed(answer))
    given = choice_of(bare) or (choice_of(bare.upper()) if len(bare.strip("(). ")) == 1 else None)
    if given is not None:
        if given[1] and right[1] and words_of(given[1]) == words_of(right[1]):
            return given[0] == right[0]
        return given[0] == right[0] and not names_another(*given)
    return bool(right[1]) and compare(answer, right[1], depth=depth + 1)


_LABEL = re.compile(r"\(\s*[A-J]\s*\)\s*[.:]?\s+(?=\S)|[A-J]\s*[.):]\s+(?=\S)")


def _without_label(answer: str) -> str:
    """``7`` of "(B) 7": what was chosen, where a value was asked for."""
    text = without_markup(unframed(answer))
    found = _LABEL.match(text)
    return text[found.end() :] if found else answer


# --- values -----------------------------------------------------------------------------------------------------------

_SAYING = re.compile(
    r"^\s*(?:so|thus|hence|therefore)?,?\s*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*", re.IGNORECASE
)
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_COMMANDS = (
    r"\\(?:"
    + "|".join(
        (
            *(one for one in GREEK if one != "pi"),
            "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell|hbar",
        )
    )
    + r")(?![A-Za-z])"
)
_WORDS = r"\\(?:text|mathrm|mathbf|textbf|mbox|operatorname)\s*\{(?P<words>[A-Za-z ]{1,40})\}|(?P<word>[A-Za-z]{3,20})"
_FIGURE = r"m?\s*\\(?:angle|overline|triangle)\s*\{?[A-Z]{1,4}\}?|\|[A-Z]{2}\||[A-Z]{2,4}"
_INDEX = r"(?:_\s*(?:\{[^{}=]{0,20}\}|\w))?'?(?:\s*\([A-Za-z\d, ]{1,20}\))?"
_NAME = rf"(?:[A-Za-z]|{_COMMANDS}){_INDEX}"
_ASSIGNED = re.compile(
    rf"\s*(?P<name>{_NAME}|{_FIGURE}|{_WORDS}|\(\s*{_NAME}(?:\s*,\s*{_NAME}){{1,9}}\s*\))\s*(?P<sign>=|\\in(?![A-Za-z])|\\approx)\s*(?P<value>[^=]+)"
)
_EQUATION = re.compile(r"(?<![\\<>!])=")
_MEMBER = re.compile(r"\\in(?![A-Za-z])")
_LEADING = re.compile(r"^(?:=|\\approx|\\equiv)\s*")


def _squeezed(text: str) -> str:
    return _SPACE.sub("", text)


_COLLECTION = re.compile(r"[(\[{]|\\\{|\\mathbb|\\emptyset|[A-Z]")


def _assigned(text: str) -> tuple[str | None, str]:
    """(name, value) of ``x = 5``; (None, text) of anything else, such as ``2x = 5``."""
    found = _ASSIGNED.fullmatch(text)
    if (
        found is None
        or not _names(found)
        or (found["sign"] == "\\in" and not _COLLECTION.match(found["value"]))
    ):
        return None, _LEADING.sub("", text, 1)
    return _squeezed(found["name"]), found["value"].strip()


def _names(found: re.Match[str]) -> bool:
    """Whether what stands before the sign is a name: words (area), but not ``xyz`` or ``not x``."""
    if found["word"]:
        return is_words(found["word"]) and not goes_on(found["word"])
    return not found["words"] or not goes_on(found["words"])


def _common_value(text: str) -> str | None:
    """``5`` of ``2+3 = 5`` and ``x = 2+3 = 5``: the last side, if the others (but a name) equal it; else None."""
    sides = [side.strip() for side in _EQUATION.split(text)]
    if len(sides) > MAX_SIDES or not all(sides):
        return None
    if len(sides) > 2 and _assigned(f"{sides[0]}=0")[0]:
        sides = sides[1:]
    equal = all(_same_value(side, sides[-1]) for side in sides[:-1])
    return sides[-1] if equal else None


def _value_side(text: str) -> str:
    return _assigned(text)[1]


def _same_value(given: str, right: str) -> bool:
    """Numbers exactly, all else by computer algebra."""
    (own, value), (name, wanted) = _assigned(given), _assigned(right)
    if not ((own is None) != (name is None) and _EQUATION.search(value if own is None else wanted)):
        given, right = value, wanted  # else one is solved for a name, the other is not
    if own is not None and name is not None and own.lower() != name.lower():
        return False
    if (_MEMBER.search(given) is None) != (_MEMBER.search(right) is None):
        return False
    if (_EQUATION.search(given) is None) != (_EQUATION.search(right) is None):
        sides = [_common_value(text) if _EQUATION.search(text) else text for text in (given, right)]
        return sides[0] is not None and sides[1] is not None and _same_value(sides[0], sides[1])
    numbers = read_number(given), read_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        return same_number(numbers[0], numbers[1])
    given, right = (
        joined(text) if one is None else without_separators(text)
        for text, one in zip((given, right), numbers, strict=True)
    )
    if any(one is None and broken(text) for text, one in zip((given, right), numbers, strict=True)):
        return False
    if given.count(":") > 1 or right.count(":") > 1:
        return _same_ratio(given, right)
    (given, unit), (right, other) = without_unit(given), without_unit(right)
    if unit and other and not _alike(unit, other):
        return False
    return same_expression(given, right)


def _alike(unit: Unit, other: Unit) -> bool:
    return alike(unit, other) and (unit.factor == other.factor or not (unit.known and other.known))


def _same_ratio(given: str, right: str) -> bool:
    """Of three or more: 1:2:3 is 2:4:6."""
    have, wanted = ([read_number(part.strip()) for part in text.split(":")] for text in (given, right))
    if len(have) != len(wanted) or None in have or None in wanted:
        return False
    pairs = [(one.value, other.value) for one, other in zip(have, wanted, strict=True) if one and other]
    factor = next((pair for pair in pairs if all(pair)), None)
    return factor is not None and all(a * factor[1] == b * factor[0] for a, b in pairs)


# --- lists ------------------------------------------------------------------------------------------------------------

_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")


def _items(text: str) -> list[str]:
    """The elements of a set or list; of ``x = ±2``, x = +2 and x = -2."""
    name, value = _assigned(text)
    if value.startswith("\\{") and value.endswith("\\}") and "\\{" not in value[2:]:
        text, name = value[2:-2], None
    elif value.startswith("{") and value.endswith("}") and "{" not in value[1:]:
        text, name = value[1:-1], None
    found = []
    for item in split_list(text):
        if len(_PLUS_MINUS.findall(item)) == 1 and "\\mp" not in item:
            found += [_PLUS_MINUS.sub("+", item), _PLUS_MINUS.sub("-", item)]
        else:
            found.append(item)
    if name is not None and len(found) > 1 and not _assigned(found[1])[0]:
        found[0] = _value_side(found[0])  # x = 1, 2
    return found


def _same_set(given: str, right: str, depth: int) -> bool:
    """Each element of one is one of the other; ``x=1, y=2`` is by name, and in this order where the answer has none."""
    if bracketed(given) is not None and right.startswith("\\{"):
        return False  # (1,2) is a point or an interval
    inner = bracketed(given)
    wanted, have = _items(right), inner if inner is not None and given[0] == "(" else _items(given)
    if not 0 < len(wanted) <= MAX_ITEMS or len(have) > MAX_ITEMS:
        return False
    if wanted == [right]:
        return _same_value(given, right)
    names = [_assigned(item)[0] for item in wanted]
    if None not in names and given.startswith("\\{"):
        return False
    if None not in names and len(set(names)) == len(names) and not any(_assigned(item)[0] for item in have):
        return _in_order(have, [_value_side(item) for item in wanted], depth)
    counted = [_counted(item) for item in wanted]
    if all(counted) and len(set(counted)) == len(counted) and not any(_counted(item) for item in have):
        return _in_order(have, wanted, depth)
    return _matched(have, wanted, depth)


def _counted(item: str) -> frozenset[str]:
    """What a number of a list counts: red of ``12 red``."""
    number = read_number(item)
    return number.unit.words if number and number.unit else frozenset()


def _same_tuple(given: str, right: str, depth: int) -> bool:
    """The same items in the same order; an open interval where it is written as one."""
    wanted = bracketed(_value_side(right)) or split_list(right)
    value = _value_side(given)
    if value.startswith("\\{") or value.startswith("{"):
        return False
    have = bracketed(value)
    if have is not None and value[0] != "\\" and not _brackets_agree(value, right, len(wanted)):
        return False
    if have is None:
        have = split_list(given)
        if len(have) != len(wanted):
            return _relation_for(given) and _same_value(given, right)
        pairs = [_assigned(item) for item in have]
        if all(name for name, _ in pairs):
            pairs = (
                sorted(pairs, key=lambda pair: str(pair[0]))
                if len({n for n, _ in pairs}) == len(pairs)
                else pairs
            )
        have = [value for _, value in pairs]
    return _in_order(have, wanted, depth)


def _brackets_agree(given: str, right: str, items: int) -> bool:
    """Of two items they tell open from closed; of more they may be round or square, but not one of each."""
    brackets = given[0] + given[-1]
    if right.startswith("\\langle"):
        return brackets in ("()", "[]")
    return brackets == right[0] + right[-1] or (items != 2 and brackets in ("()", "[]"))


def _relation_for(text: str) -> bool:
    return bool(re.search(r"<|>|\\(?:le|ge|lt|gt)(?![A-Za-z])", text))


def _in_order(have: list[str], wanted: list[str], depth: int) -> bool:
    return len(have) == len(wanted) and all(
        compare(one, other, depth=depth + 1) for one, other in zip(have, wanted, strict=True)
    )


def _matched(have: list[str], wanted: list[str], depth: int) -> bool:
    """Whether each item of one list equals one of the other, and every one is taken once."""
    if len(have) != len(wanted):
        return False
    left = list(have)
    for item in wanted:
        found = next((one for one in left if _item_equals(one, item, depth)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _item_equals(one: str, other: str, depth: int) -> bool:
    """An item that cannot be read equals none."""
    try:
        return compare(one, other, depth=depth + 1)
    except Unreadable as why:
        if why.args == ("reference",):
            raise
        return False


_BUILDER = re.compile(r"^\\\{\s*[A-Za-z]\s*(?:\||\\mid|:)\s*(.*)\\\}$")


def _same_intervals(given: str, right: str, depth: int) -> bool:
    """The same parts with the same ends; else, for inequalities and overlapping parts, by computer algebra."""
    given, right = _value_side(given), _value_side(right)
    parts = [[part.strip() for part in text.split("\\cup")] for text in (given, right)]
    if all(bracketed(part) is not None for part in (*parts[0], *parts[1])):
        left = list(parts[0])
        for part in parts[1]:
            found = next((one for one in left if _same_interval(one, part, depth)), None)
            if found is None:
                break
            left.remove(found)
        else:
            return not left
        if len(parts[0]) == len(parts[1]) == 1:
            return False
    given, right = (_BUILDER.sub(r"\1", text) for text in (given, right))
    if given.startswith(("\\{", "{")) or not (bracketed(given) or _relation_for(given) or "\\" in given):
        return False
    return same_expression(given, right)


def _same_interval(one: str, other: str, depth: int) -> bool:
    ends = bracketed(one), bracketed(other)
    if one[0] + one[-1] != other[0] + other[-1] or ends[0] is None or ends[1] is None:
        return False
    return _in_order(ends[0], ends[1], depth)
