"""What of reasoning-gym runs in the checking process: its generators and scorers, and what is mended about them."""

from __future__ import annotations

import ast
import json
import re
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from selfteach.task.answer import AnswerFormat, extract_answer, write_answer
from selfteach.task.split import is_held_out
from selfteach.task.worked import worked_solution

MAX_REDRAWS = 1000

# Scorers that hand the answer to Python's or SymPy's evaluator. The answers of the first kind are compared as text
# (the library pays full marks for nothing else); those of the others must first pass a filter of harmless characters.
EVALUATES_PYTHON = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
EVALUATES_ARITHMETIC = frozenset({"countdown", "puzzle24"})
EVALUATES_ALGEBRA = frozenset({"intermediate_integration", "polynomial_multiplication", "simple_integration"})
_ARITHMETIC = re.compile(r"[\d\s+\-*/().]+", re.ASCII)
_FUNCTIONS = r"(?:exp|log|sqrt|a?(?:sin|cos|tan)h?)\b"
_ALGEBRA = re.compile(
    rf"(?:[\d\s+\-*/^()]|\.(?!\s*[A-Za-z])|[A-Za-z](?![A-Za-z0-9])|{_FUNCTIONS})+", re.ASCII
)


def warm_up() -> None:
    score("chain_sum", "{}", 0, "1")


def names() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def fields(name: str, config: str) -> list[str]:
    from reasoning_gym.factory import DATASETS

    return list(DATASETS[name][1].__dataclass_fields__)


def _dataset(name: str, config: str, draw: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=draw, size=1, **json.loads(config))


@lru_cache(maxsize=1024)
def _entry(name: str, config: str, draw: int) -> dict[str, Any]:
    entry: dict[str, Any] = _dataset(name, config, draw)[0]
    return entry


def draw(
    name: str, config: str, stream: str, held_out: bool, fraction: float | None, form: AnswerFormat | None
) -> dict[str, Any]:
    """The first question of a stream of draws that is sound and on the wanted side of the split.

    ``form``: in it the reference can be written and read; None: no matter.
    """
    flaws: list[str] = []
    for attempt in range(MAX_REDRAWS):
        number = int.from_bytes(blake2b(f"{stream}/{attempt}".encode(), digest_size=4).digest(), "big")
        entry = _entry(name, config, number)
        if is_held_out(entry["question"], fraction) != held_out:
            continue
        try:
            _check_reference(name, config, number, form)
            solution = worked_solution(name, entry)
        except ValueError as error:
            flaws.append(str(error))
            continue
        found = {"question": entry["question"], "answer": entry["answer"], "solution": solution}
        return {**found, "draw": number, "flawed": len(flaws)}
    side = "held-out" if held_out else "training"
    raise ValueError(f"{MAX_REDRAWS} draws gave no usable {side} question{f'; {flaws[-1]}' if flaws else ''}")


def _check_reference(name: str, config: str, draw: int, form: AnswerFormat | None) -> None:
    """Raises ValueError for a reference that no answer could be like."""
    reference = _entry(name, config, draw)["answer"]
    if reference is None:
        return
    if form is not None and not fits(name, config, draw, form):
        raise ValueError(f"the answer {reference[:40]!r} cannot be given in the form {form}")
    allowed = _allowed(name)
    if allowed is not None and not allowed.fullmatch(reference):
        raise ValueError(f"the library's own answer {reference[:40]!r} is not worked out")


def fits(name: str, config: str, draw: int, form: AnswerFormat) -> bool:
    """Whether the reference is still right once it is written in ``form`` and read from it."""
    reference = _entry(name, config, draw)["answer"]
    read = extract_answer(write_answer(reference, form), form)
    return read == reference.strip() or (read is not None and score(name, config, draw, read) > 1 - 1e-6)


def _allowed(name: str) -> re.Pattern[str] | None:
    """What an answer may consist of that the library will evaluate."""
    if name in EVALUATES_ARITHMETIC:
        return _ARITHMETIC
    return _ALGEBRA if name in EVALUATES_ALGEBRA else None


def score(name: str, config: str, draw: int, answer: str) -> float:
    entry = _entry(name, config, draw)
    reference = entry["answer"]
    if reference is not None and answer == reference.strip():
        answer = reference
    if name in EVALUATES_PYTHON:
        return float(answer in entry["metadata"].get("valid_answers", [reference]))
    allowed = _allowed(name)
    if allowed is not None and not allowed.fullmatch(answer):
        return 0.0
    if name == "puzzle24":
        return float(_makes_24(answer, entry["metadata"]["numbers"]))
    return float(_dataset(name, config, draw).score_answer(answer, entry))


def _makes_24(answer: str, numbers: list[int]) -> bool:
    """Whether sums and products of the given numbers, each taken once, are 24.

    The library itself takes any four numbers within its bounds, and rounds.
    """
    taken: list[int] = []
    try:
        value = _value(ast.parse(answer.strip(), mode="eval").body, taken)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == 24 and sorted(taken) == sorted(numbers)


def _value(node: ast.expr, taken: list[int]) -> Fraction:
    """Of an expression that is only read, not run; ValueError for all but + - * / of integers."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        taken.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, taken)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, taken), _value(node.right, taken)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError
