"""Calls of tools as chat models write them: an assistant's text → the calls in it, by the form's name.

What is read is untrusted: nothing of it is evaluated, and a call that cannot be read is a ``MalformedCall``, whose
words may be shown to the policy. Models and forms: Hermes and Qwen 2.5/3 (``hermes``), Llama 3.1 and later
(``llama``), Mistral 7B v0.3 and later (``mistral``), and ``plain``, a line ``name(argument, argument)``, for models
that have no form of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from selfteach.outside import within_bounds
from selfteach.wording import shortened

Form = Literal["auto", "hermes", "llama", "mistral", "plain"]
FORMS: tuple[Form, ...] = get_args(Form)

OPENED, CLOSED = "<tool_call>", "</tool_call>"
PYTHON = "<|python_tag|>"
CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKS = (OPENED, CLOSED, PYTHON, CALLS, ARGS, CALL_ID)
"""Words of these forms that some tokenizers have as control tokens; they are part of what the assistant says."""

_LINE = re.compile(r"[ \t]*([A-Za-z_]\w*)\((?:(.*)\)[ \t]*|[^)]*)", re.ASCII)
_KEYWORD = re.compile(r"\s*([A-Za-z_]\w*)\s*=", re.ASCII)
_COMMA = re.compile(r"\s*(,|$)")
_SPACE = re.compile(r"[\s;]*")


@dataclass(frozen=True)
class ToolCall:
    """A call: the tool's name, and its arguments by name, or in their order (plain form)."""

    name: str
    arguments: Mapping[str, Any]
    ordered: tuple[Any, ...] = ()


class MalformedCall(ValueError):
    """A text that means to call a tool, but cannot be read; its words say why."""


def calls_in(text: str, form: Form = "auto", names: Collection[str] = ()) -> list[ToolCall]:
    """The calls in what an assistant wrote, in their order; none: it is a final answer.

    Thoughts (up to the last ``</think>``) call nothing. ``names``: the tools there are; the plain form takes only lines
    that begin with one of them, since an answer may be ``f(x)``. ``auto`` goes by the words that the text has: any of
    the forms. Raises MalformedCall.
    """
    said = text.rpartition("</think>")[2]
    return READERS[form_of(said) if form == "auto" else form](said, names)


def form_of(text: str) -> Form:
    if OPENED in text:
        return "hermes"
    if CALLS in text:
        return "mistral"
    return "llama" if text.lstrip().startswith((PYTHON, "{")) else "plain"


# --- the forms ------------------------------------------------------------------------------------------------------


def hermes(text: str, names: Collection[str] = ()) -> list[ToolCall]:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, once or several times; the last may lack its end."""
    return [call_of(value_of(part.partition(CLOSED)[0])) for part in text.split(OPENED)[1:]]


def llama(text: str, names: Collection[str] = ()) -> list[ToolCall]:
    """``{"name": …, "parameters": {…}}`` as the whole text, behind ``<|python_tag|>`` or not; several stand one behind
    the other, or between semicolons. Another JSON object is a final answer."""
    marked = text.lstrip().startswith(PYTHON)
    rest = text.strip().removeprefix(PYTHON)
    if not marked and not rest.startswith("{"):
        return []
    try:
        found = values_of(rest)
    except MalformedCall:
        if marked or re.match(r'\{\s*"name"', rest):
            raise
        return []
    if not marked and not all(isinstance(one, dict) and is_call(one) for one in found):
        return []
    return [call_of(one) for one in found]


def mistral(text: str, names: Collection[str] = ()) -> list[ToolCall]:
    """``[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]``, and the newer ``[TOOL_CALLS]name[ARGS]{…}``, which may be
    repeated and have a ``[CALL_ID]`` behind the name."""
    found: list[ToolCall] = []
    for part in text.split(CALLS)[1:]:
        if ARGS in part:
            name, _, arguments = part.partition(ARGS)
            found.append(
                call_of({"name": name.partition(CALL_ID)[0].strip(), "arguments": value_of(arguments)})
            )
        else:
            value = value_of(part)
            found += [call_of(one) for one in (value if isinstance(value, list) else [value])]
    return found


def plain(text: str, names: Collection[str] = ()) -> list[ToolCall]:
    """``name(1, "two", three=3)`` alone on its line, with JSON values; lines that begin with no tool's name are
    text."""
    lines = map(_LINE.fullmatch, text.splitlines())
    return [called(line[1], line[2]) for line in lines if line is not None and line[1] in names]


READERS: Mapping[str, Callable[[str, Collection[str]], list[ToolCall]]] = {
    "hermes": hermes,
    "llama": llama,
    "mistral": mistral,
    "plain": plain,
}


# --- their parts ----------------------------------------------------------------------------------------------------


def is_call(value: Mapping[str, Any]) -> bool:
    return "name" in value and ("parameters" in value or "arguments" in value)


def call_of(value: Any) -> ToolCall:
    """A call from its JSON object. A tool without parameters may be called without arguments."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise MalformedCall('a call must be a JSON object with "name" and "arguments"')
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, dict):
        raise MalformedCall(f"the arguments of {shortened(value['name'], 40)} must be a JSON object")
    return ToolCall(value["name"], arguments)


def called(name: str, inside: str | None) -> ToolCall:
    """A plain call from what stands between its parentheses; None: they are not closed."""
    if inside is None:
        raise MalformedCall(f"the call of {name} has no closing parenthesis on its line")
    ordered, named, at = list[Any](), dict[str, Any](), 0
    while inside[at:].strip():
        keyword = _KEYWORD.match(inside, at)
        value, at = decoded(inside, keyword.end() if keyword else at)
        comma = _COMMA.match(inside, at)
        if comma is None or (not keyword and named) or (keyword and keyword[1] in named):
            raise MalformedCall(f"write {name}(value, ...) or {name}(name=value, ...), with JSON values")
        at = comma.end()
        if keyword:
            named[keyword[1]] = value
        else:
            ordered.append(value)
    return ToolCall(name, named, tuple(ordered))


def value_of(text: str) -> Any:
    """The one JSON value that the text is."""
    found = values_of(text)
    if len(found) != 1:
        raise MalformedCall("a call must hold one JSON value")
    return found[0]


def values_of(text: str) -> list[Any]:
    """JSON values that stand one behind the other, one at least."""
    found, at = list[Any](), 0
    while not found or at < len(text):
        value, at = decoded(text, at)
        found.append(value)
        space = _SPACE.match(text, at)
        at = at if space is None else space.end()
    return found


def decoded(text: str, at: int) -> tuple[Any, int]:
    """(the JSON value that stands at this place, the place behind it)."""
    try:
        value, end = _DECODER.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        return within_bounds(value), end
    except json.JSONDecodeError as error:
        raise MalformedCall(f"not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedCall("not valid JSON: nested too deep") from None
    except ValueError as error:
        raise MalformedCall(f"not valid JSON: {shortened(str(error), 100)}") from None


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refused)
