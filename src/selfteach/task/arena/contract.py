"""World "json": rank a few items and say so in strict JSON; most answers fail by their form, not by the ranking.

The model knows the form, and slips at each of its characters now and then: near-deterministic tokens whose small
errors add up over an answer (ListOPD).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.lesson import Lesson, Problems
from selfteach.task.example import Grade
from selfteach.task.verdict import Verdict

LETTERS = "abcdefghjk"
LEAST, MOST = 3, 4
PROBLEM = re.compile(rf"[{LETTERS}][0-9](;[{LETTERS}][0-9]){{{LEAST - 1},{MOST - 1}}}", re.ASCII)
FORM = "~"
WORDING: Mapping[str, str] = {"solution": "{problem}|{solution}", "form": "{problem}|{form}"}


def pose(rng: Random) -> str:
    """Three or four items, no two with the same score: ``c3;a7;k5``."""
    count = rng.randint(LEAST, MOST)
    pairs = zip(rng.sample(LETTERS, count), rng.sample(range(10), count), strict=True)
    return ";".join(f"{letter}{score}" for letter, score in pairs)


def kind(problem: str) -> str:
    """How many items there are."""
    return f"{len(problem.split(';'))} items"


def ranked(problem: str) -> str:
    """The items' letters, the highest score first."""
    return "".join(item[0] for item in sorted(problem.split(";"), key=lambda item: item[1], reverse=True))


def in_json(letters: Sequence[str]) -> str:
    """A ranking as the contract has it: ``{"rank":["a","k","c"]}``."""
    return json.dumps({"rank": list(letters)}, separators=(",", ":"))


def tell(problem: str) -> Mapping[str, str]:
    """``solution``, the letters in their order; ``answer``, the same in JSON; ``form``, the sign of care."""
    items = problem.split(";")
    if not PROBLEM.fullmatch(problem) or any(len({item[i] for item in items}) < len(items) for i in (0, 1)):
        raise UserError(f"world 'json': {problem!r} is no problem of it; write items and scores as c3;a7;k5")
    order = ranked(problem)
    written = in_json(order)
    return {"solution": order, "answer": written, "form": FORM, "worked": written}


def read(answer: str, problem: str) -> str | None:
    """The ranking in an answer that keeps to the contract: one object, its only key "rank", every item once."""
    try:
        found = json.loads(answer, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    match found:
        # An object is a tuple of its pairs here, and a list stays one.
        case (("rank", list(order)),) if type(found) is tuple and all(isinstance(one, str) for one in order):
            letters = "".join(order)
            return letters if sorted(order) == sorted(item[0] for item in problem.split(";")) else None
    return None


def judge(problem: str, answer: str) -> Grade:
    """Right if the answer keeps to the contract and has the items in their order.

    ``numbers``: ``valid``, whether it keeps to the contract; where it does ``top``, whether its first item is right.
    """
    right, order = ranked(problem), read(answer, problem)
    if order is None:
        form = f"the answer must be JSON as {in_json(sorted(right))}, every item once, and nothing beside it"
        return Grade(0.0, form, None, Verdict.UNPARSEABLE.value, {"valid": 0.0})
    numbers = {"valid": 1.0, "top": float(order[0] == right[0])}
    if order == right:
        return Grade(1.0, None, in_json(order), Verdict.RIGHT.value, numbers)
    return Grade(0.0, f"the order is {right}, not {order}", in_json(order), Verdict.WRONG.value, numbers)


# --- pretraining ------------------------------------------------------------------------------------------------------

FORM_SLIP_RATE = 0.06
"""Of each piece of the form."""
ORDER_SLIP_RATE = 0.1
"""That two neighbors change places."""
SLIPS: Mapping[str, Sequence[str]] = {
    "{": ("", "("), '"rank"': ("rank", '"rank'), ":": ("=", ""), "[": ("", "("), ",": (";", ""), "]": ("", ")"),
    "}": ("", ")"),
}  # fmt: skip


def carelessly(letters: Sequence[str], rng: Random) -> str:
    """A ranking in JSON by somebody who slips at each piece of the form now and then."""
    pieces = ["{", '"rank"', ":", "["]
    for i, letter in enumerate(letters):
        pieces += [",", f'"{letter}"'] if i else [f'"{letter}"']
    return "".join(_slipped(piece, rng) for piece in [*pieces, "]", "}"])


def _slipped(piece: str, rng: Random) -> str:
    if rng.random() >= FORM_SLIP_RATE:
        return piece
    return rng.choice(SLIPS.get(piece, (piece.strip('"'), piece[:-1])))


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (half): slips of form and order. Told the sign of care: of order alone. Told an order, right or
    not: none."""
    problem = draw(rng)
    order = list(ranked(problem))
    if rng.random() < ORDER_SLIP_RATE:
        i = rng.randrange(len(order) - 1)
        order[i : i + 2] = order[i + 1], order[i]
    view = rng.choice(["plain", "plain", "form", "solution"])
    if view == "plain":
        return Lesson(problem, carelessly(order, rng))
    if view == "form":
        return Lesson(f"{problem}|{FORM}", in_json(order))
    rng.shuffle(order)
    return Lesson(f"{problem}|{''.join(order)}", in_json(order))
