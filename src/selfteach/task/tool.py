"""A tool: a typed Python function that a policy may call, with the JSON schema that a chat template shows of it."""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from inspect import Parameter
from typing import Any, NotRequired

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import TypedDict

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.task.example import Message
from selfteach.task.tool_calls import ToolCall

STATE = "state"
"""The parameter that is not the policy's: the episode's state."""
PROBLEMS = 4
"""Of wrong arguments that a message names."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_OF_ITS_OWN = "put it at the top of a module or file of its own, or say Tool.of(function, isolated=False)"


class ToolError(Exception):
    """What is wrong with a call, in words that the policy is shown."""


@dataclass(frozen=True)
class Tool:
    """A function by its ``name``, its docstring (``description``) and the JSON schema of its ``parameters``.

    ``reference``: what a worker process loads it by (``module:name`` or ``file.py:name``), None where the function runs
    in this process. ``stateful``: it has a parameter ``state``, gets the episode's state for it (a JSON value, not part
    of the schema), and returns (answer, new state).
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any]
    reference: str | None
    stateful: bool
    adapter: TypeAdapter[Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, function: Callable[..., Any], *, isolated: bool = True, stateful: bool | None = None) -> Tool:
        """The tool that a function is. Every parameter has an annotation that pydantic knows; ``Annotated[int,
        Field(ge=0, description="…")]`` says more of it. The docstring says what the tool does.

        ``isolated``: it runs in a worker process, under limits of time and memory, and must be importable there: a
        function at the top of a module or of a file. Without, it may be anything callable and runs in this process,
        where neither time nor memory is limited and what it prints is printed: for functions that need no limits.
        ``stateful``: whether ``state`` is the episode's; None: where there is a parameter of that name. False for a
        function whose ``state`` is the policy's to give, as that of an address.
        UserError, one line, where it cannot be a tool.
        """
        name = getattr(function, "__name__", "") or type(function).__name__
        if not _NAME.fullmatch(name):
            raise UserError(f"tool {name}: a tool needs a function with a name (letters, digits and _)")
        description = inspect.getdoc(function) if hasattr(function, "__name__") else None
        if not description:
            raise UserError(f"tool {name}: it has no docstring: say there what it does, the model reads it")
        parameters = parameters_of(name, function)
        hints = hints_of(name, function)
        if lacking := [one.name for one in parameters if one.name not in hints]:
            raise UserError(f"tool {name}: parameter {lacking[0]} has no annotation: write {lacking[0]}: int")
        reference = reference_to(name, function) if isolated else None
        named = any(one.name == STATE for one in parameters)
        if stateful and not named:
            raise UserError(f"tool {name}: a stateful tool needs a parameter {STATE!r}")
        taken = named if stateful is None else stateful
        mine = [one for one in parameters if one.name != STATE or not taken]
        adapter, schema = adapter_of(name, mine, hints)
        return cls(name, description, schema, function, reference, taken, adapter)

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates and model servers take it: ``{"type": "function", "function": {name, description,
        parameters}}``."""
        told = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": told}

    def arguments(self, call: ToolCall) -> dict[str, Any]:
        """The call's arguments by name. ToolError where there are too many, or one is given twice."""
        names = list(self.parameters["properties"])
        if len(call.ordered) > len(names):
            raise ToolError(f"{self.name} takes {len(names)} arguments, {len(call.ordered)} were given")
        given = dict(zip(names, call.ordered, strict=False))
        if twice := [name for name in call.arguments if name in given]:
            raise ToolError(f"{self.name}: argument {twice[0]} is given twice")
        return {**given, **call.arguments}

    def validated(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The Python values that the function is called with, of JSON values.

        Validated by pydantic as strict JSON: an ``int`` is a JSON number without a fraction, a ``str`` a JSON string
        ("3" is no 3, true is no 1), a ``float`` any finite JSON number; what JSON cannot say (a date, a tuple) is read
        from what JSON has for it. Unknown arguments are refused. ToolError says what is wrong, without repeating it.
        """
        try:
            found: dict[str, Any] = self.adapter.validate_json(json.dumps(dict(arguments)))
            return found
        except ValidationError as error:
            told = [
                f"{'.'.join(map(str, one['loc']))[:60]}: {one['msg'][:120]}"
                for one in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            more = f" (and {len(told) - PROBLEMS} more)" if len(told) > PROBLEMS else ""
            raise ToolError(f"{self.name}: {'; '.join(told[:PROBLEMS])}{more}") from None


def tools_of(given: Sequence[Tool | Callable[..., Any]]) -> dict[str, Tool]:
    """Tools by name, functions made tools. UserError if there is none, or two have one name."""
    found: dict[str, Tool] = {}
    for one in given:
        tool = one if isinstance(one, Tool) else Tool.of(one)
        if tool.name in found:
            raise UserError(f"two tools have the name {tool.name}: rename one of the functions")
        found[tool.name] = tool
    if not found:
        raise UserError("an environment with tools needs one tool at least")
    return found


def with_tools(tools: Sequence[Tool | Callable[..., Any]], prompt: Sequence[Message]) -> tuple[Message, ...]:
    """A prompt that announces these tools: a first message of the role ``tools``, the JSON list of their schemas.

    The chat template is handed them as its ``tools``; where it has no place for them, they are told as text.
    """
    schemas = [tool.schema for tool in tools_of(tools).values()]
    return (Message(role="tools", content=json.dumps(schemas, ensure_ascii=False)), *prompt)


# --- of a function --------------------------------------------------------------------------------------------------


def parameters_of(name: str, function: Callable[..., Any]) -> list[Parameter]:
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise UserError(f"tool {name}: its parameters are unknown; wrap it in a function") from None
    for one in found:
        if one.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            raise UserError(f"tool {name}: parameter {one} cannot be given by name: name each parameter")
    return found


def hints_of(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    of = function if hasattr(function, "__name__") else type(function).__call__
    try:
        return typing.get_type_hints(of, include_extras=True)
    except Exception as error:
        raise UserError(f"tool {name}: its annotations cannot be read: {with_type(error)}") from None


def adapter_of(
    name: str, parameters: Sequence[Parameter], hints: Mapping[str, Any]
) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What validates the arguments, and their schema. A table of types, so that a parameter may have any name."""
    types = {
        one.name: hints[one.name] if one.default is Parameter.empty else NotRequired[hints[one.name]]
        for one in parameters
    }
    typed: Any = TypedDict
    table = typed(name, types)
    table.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    try:
        adapter = TypeAdapter(table)
        schema = untitled(adapter.json_schema())
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
        raise UserError(f"tool {name}: its parameters have no JSON schema: {with_type(error)}") from None
    schema.setdefault("properties", {})
    schema.pop("additionalProperties", None)
    for one in parameters:
        if one.default is not Parameter.empty:
            with suppress(TypeError, ValueError):  # a default that JSON cannot say is not shown
                json.dumps(one.default, allow_nan=False)
                schema["properties"][one.name].setdefault("default", one.default)
    return adapter, schema


def untitled(schema: Any) -> Any:
    """A schema without pydantic's titles, which repeat the names. A parameter may be called "title"."""
    if isinstance(schema, list):
        return [untitled(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: one for key, one in schema.items() if key != "title" or not isinstance(one, str)}
    named = ("properties", "$defs")
    return {
        key: {name: untitled(each) for name, each in one.items()} if key in named else untitled(one)
        for key, one in kept.items()
    }


def reference_to(name: str, function: Callable[..., Any]) -> str:
    """What another process loads the function by. UserError if it cannot."""
    where, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    module = sys.modules.get(where or "")
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if module is None or found is not function:
        raise UserError(
            f"tool {name}: a worker process cannot import it (a method, a closure or a lambda): {_OF_ITS_OWN}"
        )
    if where == "__main__":
        raise UserError(
            f"tool {name}: it is defined in the program itself, which a worker process would run again: {_OF_ITS_OWN}"
        )
    if PathFinder.find_spec(str(where).partition(".")[0]) is not None:
        return f"{where}:{path}"
    return f"{module.__file__}:{path}"
