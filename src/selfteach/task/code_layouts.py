"""Public sets of programming problems whose tests stand in several columns: what is made of a row."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from typing import Any

from selfteach.task.code_block import fenced
from selfteach.task.composed import Cells, Composed, paragraphs, plain

GIVES = ("problem", "solution", "tests", "starter_code")


def human_eval(row: Cells) -> Cells:
    """Of openai_humaneval and its kin: a function's head with its docstring, its body, ``check(candidate)``."""
    begun, entry = row["prompt"], row["entry_point"]
    helpers = "\n\n".join(without(begun, entry))
    return {
        "problem": f"Complete this function.\n\n{fenced(begun)}",
        "solution": fenced(begun + row["canonical_solution"]),
        "tests": f"{helpers}\n\n{row['test']}\n\ncheck({entry})\n",
        "starter_code": begun,
    }


def without(source: str, name: str) -> list[str]:
    """The statements of a source but the function of this name: what it imports, its helpers. ValueError for what is no
    Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"the prompt is no Python: {error}") from None
    kept = (one for one in tree.body if not (isinstance(one, ast.FunctionDef) and one.name == name))
    return [ast.get_source_segment(source, one) or "" for one in kept]


def mbpp(row: Cells) -> Cells:
    """Of mbpp, full and sanitized: the first test tells the names that all use."""
    tests = [str(one) for one in plain(row["test_list"])]
    before = row.get("test_setup_code") or "\n".join(plain(row.get("test_imports")) or [])
    return {
        "problem": paragraphs(row.get("text") or row["prompt"], f"It must pass this test:\n{tests[0]}"),
        "solution": fenced(row["code"]),
        "tests": "\n".join([*([before] if before.strip() else []), *tests]),
    }


def apps(row: Cells) -> Cells:
    """Of codeparrot/apps and TACO: inputs and outputs, several solutions of which the first is kept."""
    solutions = row.get("solutions")
    listed = json.loads(solutions) if isinstance(solutions, str) and solutions.strip() else plain(solutions)
    starter = row.get("starter_code") or ""
    return {
        "problem": paragraphs(row["question"], starter.strip() and f"Begin with:\n{fenced(starter)}"),
        "solution": fenced(listed[0]) if listed else None,
        "tests": row["input_output"],
        "starter_code": starter or None,
    }


def _layout(name: str, columns: str, make: Callable[[Cells], Cells], **more: Any) -> Composed:
    return Composed(name, frozenset(columns.split()), GIVES, make, **more)


def lists(rows: Sequence[Cells]) -> bool:
    return bool(rows) and all(isinstance(plain(row.get("test_list")), list) for row in rows)


LAYOUTS: tuple[Composed, ...] = (
    _layout("HumanEval", "prompt entry_point canonical_solution test", human_eval),
    _layout("MBPP", "code test_list", mbpp, fits=lists),
    _layout("APPS", "question input_output", apps),
)
"""The first that fits counts."""
