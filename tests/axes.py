"""Evaluates every recipe while each tensor is held against the axes that annotations name: ``python tests/axes.py``.

Annotations are strings, and cost a run nothing. Here jaxtyping's import hook makes a check of each call of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, install_import_hook

PACKAGE = "selfteach.objective"
checked_by_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with those of its annotations checked that speak of tensors; the others are mypy's."""
    names = getattr(function, "__globals__", {})
    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint for name, hint in hints if speaks_of_tensors(hint, names)}
    return checked_by_beartype(function) if function.__annotations__ else function


def speaks_of_tensors(hint: Any, names: dict[str, Any]) -> bool:
    if isinstance(hint, str):
        try:
            hint = eval(hint, names)
        except NameError:  # imported for mypy alone
            return False
    return "Tensor" in repr(hint)


def refuse_an_idle_hook() -> None:
    """Without checks nothing below could fail."""
    from selfteach.objective.aggregate import numbered

    try:
        numbered(torch.zeros(3))
    except TypeCheckError:
        return
    sys.exit("a float passed for an Int: the annotations are not checked")


def main() -> None:
    install_import_hook(PACKAGE, "axes.check")
    refuse_an_idle_hook()

    from selfteach.testing import evaluate
    from test_evaluate import CASES, batch_for

    for label, recipe, step in CASES:
        try:
            evaluate(recipe, batch_for(recipe), step)
        except TypeCheckError as problem:
            sys.exit(f"{label}: {problem}")
    print(f"{len(CASES)} evaluations")


if __name__ == "__main__":
    main()
