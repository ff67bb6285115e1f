"""Run a program's source, and say what it raised: the kind, the words, and the line of the program."""

from __future__ import annotations

import linecache
import traceback
from types import ModuleType
from typing import Any

NAME = "program.py"
SAID = 300
"""Characters of an error's words."""


def loaded(source: str, module: ModuleType, starter: str = "") -> None:
    """Run the source as this module, behind the ``starter`` that it goes on from where the two are one program. Raises
    whatever it raises, SyntaxError among it."""
    if starter:
        try:
            compile(f"{starter}\n{source}", NAME, "exec", dont_inherit=True)
            source = f"{starter}\n{source}"
        except (SyntaxError, ValueError):
            pass  # the answer says all of it
    linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    exec(compile(source, NAME, "exec", dont_inherit=True), module.__dict__)


def described(error: BaseException) -> dict[str, Any]:
    """``kind``, ``message`` and ``where`` ("line 3: x = 1 / 0", empty if it is in no line of the program). ``kinds``:
    the names of its class and of those above; ``argument``: what it was raised with, if that is a text."""
    given = error.args[0] if error.args and type(error.args[0]) is str else None
    kinds = [one.__name__ for one in type(error).__mro__]
    return {**in_words(error), "kinds": kinds, "argument": given and given[:SAID]}


def in_words(error: BaseException) -> dict[str, str]:
    try:
        message = " ".join(str(error).split())[:SAID]
    except BaseException:
        message = ""
    if isinstance(error, SyntaxError) and error.filename == NAME and error.lineno:
        return {"kind": type(error).__name__, "message": str(error.msg)[:SAID], "where": placed(error.lineno)}
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    where = placed(lines[-1]) if lines and lines[-1] else ""
    return {"kind": type(error).__name__[:60], "message": message, "where": where}


def placed(number: int) -> str:
    return f"line {number}: {linecache.getline(NAME, number).strip()[:120]}"


def written(error: BaseException) -> str:
    """As Python would print it, of the program's own lines alone."""
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == NAME]
    head = ["Traceback (most recent call last):\n", *traceback.format_list(lines)] if lines else []
    return "".join([*head, *traceback.format_exception_only(error)])
