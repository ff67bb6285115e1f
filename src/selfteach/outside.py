"""Files that somebody else wrote, read under bounds: whatever is wrong with one becomes a UserError that names it.

Any floor may use it. A reader says ``with blamed(what):`` around the library that reads; text and JSON have functions.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfteach.errors import UserError

MOST_BYTES = 64 * 2**20
"""Of a file of settings, patterns or turns that is read whole; a tokenizer's JSON has a dozen."""
DEEPEST = 100
"""Levels of lists and tables in one another: what is deeper would end whatever walks through it by recursion."""
MOST_VALUES = 2_000_000
"""Values in a file of settings, those that an alias repeats counted each time."""
SAID = 300
"""Characters of a library's own words that a message repeats."""


@contextmanager
def blamed(what: str, advice: str = "") -> Iterator[None]:
    """Whatever is raised within becomes a UserError: ``what`` cannot be read (why), and the advice. A UserError
    stays what it is, and Ctrl-C passes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be read ({said_by(error)}){advice and f'; {advice}'}") from error


def said_by(error: BaseException) -> str:
    """What an error says, in one line; where that is nothing, or says nothing without it, its type's name."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; save the file as UTF-8"
    return _words(error).rstrip(".") or type(error).__name__


def with_type(error: BaseException) -> str:
    """``ValueError: what it says``, in one line, for errors of code that is not ours; a UserError's own line alone."""
    if isinstance(error, UserError):
        return str(error)
    # Here a file's name is wanted, since nobody has said it, and it may be the code that recurs.
    said = _words(error) if isinstance(error, OSError | RecursionError) else said_by(error)
    name = type(error).__name__
    return name if said in ("", name) else f"{name}: {said}"


def _words(error: BaseException) -> str:
    """At most SAID characters of an error's text; none of one that cannot even say what it is."""
    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:
        return ""
    return " ".join(text.split())[:SAID]


def require_file(path: Path | str, what: str, most: int | None = None) -> Path:
    """The path of a plain file of at most ``most`` bytes. UserError for what is none: a folder, or a pipe, which would
    be waited for without end."""
    with blamed(what):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file (a pipe, socket or device)"
        raise UserError(f"{what} is {kind}: give a file")
    if most is not None and found.st_size > most:
        raise UserError(f"{what} has {found.st_size:,} bytes: at most {most:,} are read")
    return Path(path)


def read_text(path: Path | str, what: str, advice: str = "", most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, without its byte order mark. UserError where it is none, which begins with ``what``."""
    require_file(path, what, most)
    with blamed(what, advice):
        return Path(path).read_bytes().decode("utf-8-sig")


def read_json(path: Path | str, what: str, advice: str = "") -> Any:
    """What a JSON file holds. UserError where it is not valid, or deeper than ``DEEPEST``."""
    return read_parsed(json.loads, "JSON", path, what, advice)


def read_toml(path: Path | str, what: str, advice: str = "") -> dict[str, Any]:
    """The table that a TOML file holds. UserError where it is not valid, or deeper than ``DEEPEST``."""
    table: dict[str, Any] = read_parsed(tomllib.loads, "TOML", path, what, advice)
    return table


def read_parsed(parse: Callable[[str], Any], form: str, path: Path | str, what: str, advice: str = "") -> Any:
    """What a parser of ``form`` makes of a file's text, within the bounds on depth and size."""
    text = read_text(path, what, advice)
    try:
        return within_bounds(parse(text))
    except Exception as error:  # YAML's builders of dates and numbers raise nearly anything
        raise UserError(f"{what} is not valid {form} ({said_by(error)}){advice and f'; {advice}'}") from error


def parsed_json(text: str | bytes, most: int | None = MOST_VALUES, **how: Any) -> Any:
    """``json.loads`` within the bounds of ``within_bounds``: what it holds is walked through only where there are
    enough brackets and commas to exceed them, since that takes longer than to parse it. ValueError or RecursionError
    for what is not JSON, or beyond the bounds."""
    found = json.loads(text, **how)

    def times(sign: str) -> int:
        return text.count(sign) if isinstance(text, str) else text.count(sign.encode())

    inner = times("[") + times("{")
    few = inner <= DEEPEST and (most is None or inner + times(",") < most)
    return found if few else within_bounds(found, most)


def within_bounds(value: Any, most: int | None = MOST_VALUES) -> Any:
    """The value, if it is no deeper than ``DEEPEST`` and holds no more than ``most`` values; else ValueError. It ends
    for values that hold themselves too."""
    left, seen = [(value, 0)], 0
    while left:
        part, depth = left.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        if most is not None and seen > most:
            raise ValueError(f"more than {most:,} values")
        inner = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
        left.extend((one, depth + 1) for one in inner)
    return value
