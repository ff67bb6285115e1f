"""What of tools a chat template is handed: their schemas, the calls that the assistant made, and what they answered.

A conversation says it in messages of role and content: a first message of the role ``tools`` (the JSON list of schemas,
``task.tool.with_tools``), calls as the assistant wrote them, answers as messages of the role ``tool``. Templates differ
in what they know of that; what they do not know is told as text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfteach.errors import UserError
from selfteach.outside import parsed_json
from selfteach.task.example import Message
from selfteach.task.tool_calls import MARKS, PYTHON, MalformedCall, ToolCall, calls_in

WORD = "selfteach"
MERGED = "tool answers"
"""Marks a user's message that is made of tools' answers, until all are in it."""
INTRODUCTION = (
    "You can call these functions. To call one, write it alone on a line as name(value, ...), with JSON values. What "
    "it gives is told to you. What you write without a call is your final answer."
)
"""Stands before the functions where a template has no place for them: the plain form of calls."""
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": WORD,
        "description": "?",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}


@dataclass(frozen=True)
class Knows:
    """What a template renders: ``tools`` (schemas), ``tool`` (a role for answers), ``system`` (a system prompt),
    ``calls`` (calls as data, ``message.tool_calls``)."""

    tools: bool
    tool: bool
    system: bool
    calls: bool

    @classmethod
    def of(cls, template: str, shows: Callable[[list[dict[str, Any]], list[Any] | None], bool]) -> Knows:
        """Of a template; ``shows``: whether it renders these messages and tools, with WORD in the text."""
        asked = {"role": "user", "content": "?"}
        answered = [{"role": "assistant", "content": "?"}, answer(WORD, 0)]
        return cls(
            tools=shows([asked], [TOOL]),
            tool=shows([asked, *answered], None),
            system=shows([{"role": "system", "content": WORD}, asked], None),
            calls="tool_calls" in template,
        )


def has_tools(messages: Sequence[Message]) -> bool:
    """Whether anything here is to be told otherwise than as it stands."""
    return any(
        one["role"] in ("tools", "tool") or any(mark in one["content"] for mark in MARKS) for one in messages
    )


def as_data(
    messages: Sequence[Message], knows: Knows, control: Collection[str]
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """(the messages as the template reads them, the schemas that it is handed). ``control``: the tokenizer's control
    tokens. UserError where a message of the role ``tools`` is no JSON list of schemas, or not the first."""
    schemas, said = apart(messages)
    told: list[dict[str, Any]] = []
    for one in said:
        if one["role"] == "tool":
            add_answer(told, one["content"], knows)
        elif one["role"] == "assistant":
            told.append(spoken(one["content"], knows, control))
        else:
            told.append({**one})
    for message in told:
        message.pop(MERGED, None)
    if schemas and not knows.tools:
        announce(told, described(schemas), knows)
    return told, schemas if schemas and knows.tools else None


def apart(messages: Sequence[Message]) -> tuple[list[Any], Sequence[Message]]:
    """(the schemas that the first message may hold, the other messages)."""
    first = bool(messages) and messages[0]["role"] == "tools"
    rest = messages[1:] if first else messages
    if any(one["role"] == "tools" for one in rest):
        raise UserError("a message of the role 'tools' must be the first of its conversation")
    return schemas_of(messages[0]) if first else [], rest


def schemas_of(message: Message) -> list[Any]:
    try:
        found = parsed_json(message["content"])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name_in(one), str) for one in found):
        raise UserError(
            'a message of the role \'tools\' must be a JSON list of tools\' schemas, each {"type": "function", '
            '"function": {"name": …, "description": …, "parameters": {…}}} (selfteach.task.tool.with_tools)'
        )
    return found


def name_in(schema: Any) -> Any:
    function = schema.get("function") if isinstance(schema, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def add_answer(told: list[dict[str, Any]], content: str, knows: Knows) -> None:
    """A tool's answer as the next message; as the user's where there is no role for it, several as one message, since
    such templates often want the roles to take turns."""
    before = told[-1] if told else {}
    if knows.tool:
        told.append(answer(content, number_after(before)))
    elif before.get(MERGED):
        before["content"] += f"\n{content}"
    else:
        told.append({"role": "user", "content": content, MERGED: True})


def answer(content: str, number: int) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id(number)}


def number_after(before: Mapping[str, Any]) -> int:
    return int(before["tool_call_id"][4:]) + 1 if before.get("role") == "tool" else 0


def call_id(number: int) -> str:
    """Of a call by its number in its turn. Mistral's templates want nine letters and digits."""
    return f"call{number:05d}"


def spoken(content: str, knows: Knows, control: Collection[str]) -> dict[str, Any]:
    """The assistant's message: its words, and as data the calls that begin with a control token, which no text can
    say (``[TOOL_CALLS]``). Behind ``<|python_tag|>`` stand words that need none."""
    plain: dict[str, Any] = {"role": "assistant", "content": content}
    if PYTHON in control and content.lstrip().startswith(PYTHON):
        return {**plain, "content": content.lstrip().removeprefix(PYTHON)}
    mark = next((one for one in MARKS if one in control and one in content), None)
    calls = [] if mark is None or not knows.calls else readable_calls(content)
    if mark is None or not calls:
        return plain
    return {
        "role": "assistant",
        "content": content[: content.index(mark)].strip(),
        "tool_calls": [
            {
                "id": call_id(number),
                "type": "function",
                "function": {"name": one.name, "arguments": dict(one.arguments)},
            }
            for number, one in enumerate(calls)
        ],
    }


def readable_calls(content: str) -> list[ToolCall]:
    try:
        return calls_in(content)
    except MalformedCall:
        return []


def announce(told: list[dict[str, Any]], text: str, knows: Knows) -> None:
    """Put a text before everything that is said: into the system prompt, or before the user's first words."""
    role = "system" if knows.system else "user"
    first = next((one for one in told if one["role"] == role), None)
    if first is not None:
        first["content"] = f"{text}\n\n{first['content']}"
    else:
        told.insert(0, {"role": role, "content": text})


def described(schemas: Sequence[Any]) -> str:
    """Tools as lines: add(a: integer, b: integer = 0): what it does."""
    return "\n".join((INTRODUCTION, *map(line_of, schemas)))


def line_of(schema: Any) -> str:
    function = schema["function"]
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties", {}) if isinstance(parameters, dict) else {}
    named = ", ".join(parameter_of(name, one) for name, one in properties.items())
    return f"{function['name']}({named}): {' '.join(str(function.get('description', '')).split())}"


def parameter_of(name: str, schema: Any) -> str:
    found = schema if isinstance(schema, dict) else {}
    kind = found.get("type")
    if not isinstance(kind, str):
        kind = "one of " + json.dumps(found["enum"]) if "enum" in found else "value"
    default = f" = {json.dumps(found['default'])}" if "default" in found else ""
    about = f" ({' '.join(str(found['description']).split())})" if "description" in found else ""
    return f"{name}: {kind}{default}{about}"


def told_words(message: Message) -> Iterator[str]:
    """What of a message must be in the text that a template makes: its words; of tools and of calls that it is handed
    as data, their names."""
    if message["role"] == "tools":
        yield from map(name_in, schemas_of(message))
    elif message["role"] == "assistant" and any(mark in message["content"] for mark in MARKS):
        calls = readable_calls(message["content"])
        yield from [one.name for one in calls] or [message["content"]]
    else:
        yield message["content"]
