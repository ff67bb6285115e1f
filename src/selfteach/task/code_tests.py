"""The tests of a programming problem as its data writes them: Python, inputs and outputs, or calls and their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NO_TESTS = "no tests are in them"


@dataclass(frozen=True)
class Case:
    """What a program is ``given`` on its standard input, and what it is ``expected`` to print."""

    given: str
    expected: str


def read_tests(text: str) -> dict[str, Any] | list[Case] | str:
    """Tests for ``sandbox.run.check`` or, of programs that read and print, cases; a text that says what is wrong with
    them where they are none.

    Python as it is · a JSON list of texts, each Python (MBPP) · a JSON list of ``{"input", "output"}`` · ``{"inputs",
    "outputs"}``, and with ``"fn_name"`` calls of that function, whose inputs are lists of arguments (APPS, TACO). Of
    inputs that are no text the lines are.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {"source": text} if text.strip() else NO_TESTS
    if isinstance(told, list) and told and all(isinstance(one, str) for one in told):
        return {"source": "\n".join(told)}
    if isinstance(told, list) and told and all(isinstance(one, dict) for one in told):
        told = {
            "inputs": [one.get("input") for one in told], "outputs": [one.get("output") for one in told],
            "fn_name": next((one["fn_name"] for one in told if one.get("fn_name")), None),
        }  # fmt: skip
    if not isinstance(told, dict):
        return NO_TESTS
    inputs, outputs = told.get("inputs"), told.get("outputs")
    if not (isinstance(inputs, list) and isinstance(outputs, list) and 0 < len(inputs) == len(outputs)):
        return "they have no inputs with as many outputs"
    if None in inputs or (None in outputs and not told.get("fn_name")):
        return "an input or an output is missing"
    if told.get("fn_name"):
        return {"calls": [_call(str(told["fn_name"]), *pair) for pair in zip(inputs, outputs, strict=True)]}
    return [Case(_lines(given), _lines(expected)) for given, expected in zip(inputs, outputs, strict=True)]


def _call(name: str, given: Any, expected: Any) -> tuple[str, list[Any], Any]:
    """A call of JSON values; of texts with one value a line, as LiveCodeBench has them, these."""
    if isinstance(given, str):
        given = [_value(line) for line in given.splitlines() if line.strip()]
        expected = _value(expected) if isinstance(expected, str) else expected
    return name, given if isinstance(given, list) else [given], expected


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _lines(told: Any) -> str:
    if isinstance(told, str):
        return told
    return "\n".join(map(str, told)) if isinstance(told, Sequence) else str(told)
