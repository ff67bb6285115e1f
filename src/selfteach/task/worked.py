"""Worked solutions for some reasoning-gym tasks: every step in plain words, with the running values."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

Entry = Mapping[str, Any]
Worked = tuple[list[str], int]


def worked_solution(name: str, entry: Entry) -> str | None:
    """The steps that lead to ``entry``'s answer, a line each, without the answer itself; None if we have none.

    Raises ValueError if the steps end elsewhere than the task's own answer: one of the two is wrong.
    """
    if name not in WORKED:
        return None
    try:
        steps, result = WORKED[name](entry)
    except ZeroDivisionError:
        raise ValueError(f"the question {entry['question']!r} divides by zero") from None
    if str(result) != entry["answer"]:
        raise ValueError(f"the question {entry['question']!r} gives {result}, not {entry['answer']!r}")
    return "\n".join(steps)


def chain_sum(entry: Entry) -> Worked:
    first, *rest = entry["metadata"]["expression"].split()
    total = int(first)
    steps = [f"Start with {total}."]
    for sign, term in zip(rest[::2], map(int, rest[1::2]), strict=True):
        before, total = total, total + term if sign == "+" else total - term
        steps.append(f"{before} {sign} {_operand(term)} = {total}.")
    return steps, total


def products(entry: Entry) -> Worked:
    total, *factors = map(int, entry["metadata"]["expression"].split(" * "))
    steps = [f"Start with {total}."]
    for factor in factors:
        steps += _long_multiplication(total, factor)
        total *= factor
    return steps, total


def _long_multiplication(a: int, b: int) -> list[str]:
    """a times the decimal parts of b, largest first."""
    digits = str(abs(b))
    parts = [int(digit) * 10 ** (len(digits) - 1 - i) for i, digit in enumerate(digits) if digit != "0"]
    steps = []
    if len(parts) > 1 and abs(a) > 1:
        steps.append(f"Split {abs(b)} into {' + '.join(map(str, parts))}.")
        running = 0
        for part in parts:
            product = abs(a) * part
            running += product
            steps.append(f"{abs(a)} * {part} = {product}, together {running}.")
    return [*steps, f"So {a} * {_operand(b)} = {a * b}."]


def greatest_common_divisor(entry: Entry) -> Worked:
    common, *rest = entry["metadata"]["numbers"]
    steps = []
    for number in rest:
        steps.append(f"Take {common} and {number}.")
        a, b = max(common, number), min(common, number)
        while b:
            steps.append(f"{a} = {a // b} * {b} + {a % b}.")
            a, b = b, a % b
        common = math.gcd(common, number)
        steps.append(f"The remainder is 0, so their greatest common divisor is {common}.")
    return steps, common


def letter_counting(entry: Entry) -> Worked:
    letter, total = entry["metadata"]["target_letter"], 0
    steps = [f"Count the letter {letter} word by word."]
    for word in entry["metadata"]["span"]:
        count = word.lower().count(letter)
        total += count
        steps.append(f"{word}: {count}, together {total}.")
    return steps, total


def basic_arithmetic(entry: Entry) -> Worked:
    """Innermost and leftmost first; a division that leaves a remainder is rounded down, as the task defines it."""
    steps: list[str] = []
    result = _reduce(_parse(entry["metadata"]["expression"]), steps)
    return steps, result


def _reduce(node: ast.expr, steps: list[str]) -> int:
    if isinstance(node, ast.UnaryOp):
        value = -_reduce(node.operand, steps)
        if not isinstance(node.operand, ast.Constant):
            steps.append(f"Its negative is {value}.")
        return value
    if isinstance(node, ast.BinOp):
        left, right = _reduce(node.left, steps), _reduce(node.right, steps)
        sign, value, rounded = _operate(node.op, left, right)
        steps.append(f"{left} {sign} {_operand(right)} = {value}{rounded}.")
        return value
    return _integer(node)


def _operate(operator: ast.operator, left: int, right: int) -> tuple[str, int, str]:
    """(sign, value, remark)."""
    if isinstance(operator, ast.Add):
        return "+", left + right, ""
    if isinstance(operator, ast.Sub):
        return "-", left - right, ""
    if isinstance(operator, ast.Mult):
        return "*", left * right, ""
    return "/", left // right, " rounded down" if left % right else ""


def simple_equations(entry: Entry) -> Worked:
    """Every equation of this task is linear: slope * x + constant = value."""
    x = entry["metadata"]["variable"]
    left, right = entry["metadata"]["equation"].split(" = ")
    slope, constant = _linear(_parse(left))
    value = int(right)
    steps = []
    if constant:
        sign = "-" if constant > 0 else "+"
        steps.append(f"{slope}*{x} = {value} {sign} {abs(constant)} = {value - constant}.")
        value -= constant
    return [*steps, f"{x} = {value} / {_operand(slope)} = {value // slope}."], value // slope


def _linear(node: ast.expr) -> tuple[int, int]:
    """(slope, constant) of an expression in one variable."""
    if isinstance(node, ast.Name):
        return 1, 0
    if isinstance(node, ast.UnaryOp):
        slope, constant = _linear(node.operand)
        return -slope, -constant
    if isinstance(node, ast.BinOp):
        (a, b), (c, d) = _linear(node.left), _linear(node.right)
        if isinstance(node.op, ast.Mult):
            return a * d + b * c, b * d
        return (a + c, b + d) if isinstance(node.op, ast.Add) else (a - c, b - d)
    return 0, _integer(node)


def _parse(expression: str) -> ast.expr:
    return ast.parse(expression.strip(), mode="eval").body


def _integer(node: ast.expr) -> int:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, int):
        raise ValueError(f"not an integer: {ast.dump(node)}")
    return node.value


def _operand(number: int) -> str:
    return f"({number})" if number < 0 else str(number)


WORKED: dict[str, Callable[[Entry], Worked]] = {
    "chain_sum": chain_sum,
    "products": products,
    "gcd": greatest_common_divisor,
    "letter_counting": letter_counting,
    "basic_arithmetic": basic_arithmetic,
    "simple_equations": simple_equations,
}
