"""Messages in the form of OpenAI's chat completions: what an assistant wrote as such a message, others as our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfteach.task.example import Message
from selfteach.task.tool_calls import CALLS, OPENED, MalformedCall, ToolCall, calls_in, form_of
from selfteach.wording import shortened


def message_of(given: Mapping[str, Any]) -> Message:
    """A message of anybody's. ValueError where it is more than text (images, sound, calls of somebody else)."""
    role = given.get("role")
    if not isinstance(role, str):
        raise ValueError(f"a message has no role: {shortened(repr(given), 80)}")
    if role == "assistant" and given.get("tool_calls"):
        raise ValueError("a prompt has calls of tools that an assistant made, which is no text")
    return Message(role=role, content=text_of(given.get("content")))


def text_of(content: Any) -> str:
    """A content as text: parts of text one behind the other. ValueError where a part is something else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise ValueError(f"a message's content is {type(content).__name__}, which is no text")
    return "".join(map(_part, content))


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise ValueError(f"a message has a part {shortened(str(kind), 40)}: the policy reads text alone")
    return text


def announced(tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The message that announces tools (``tool.with_tools``), of their schemas; none without a tool."""
    return (Message(role="tools", content=json.dumps(tools, ensure_ascii=False)),) if tools else ()


def assistant(text: str, tools: Sequence[Mapping[str, Any]], turn: int) -> dict[str, Any]:
    """What an assistant wrote, as model servers give it: calls of the ``tools`` are read out of the text.

    ``content`` is then what stands before them, None where that is nothing (in the plain form: the whole text).
    ``turn`` makes the names of the calls. Without tools every text is content. MalformedCall where calls cannot be
    read.
    """
    parameters = {one["function"]["name"]: one["function"].get("parameters") or {} for one in tools}
    calls = calls_in(text, names=parameters) if tools else []
    if not calls:
        return {"role": "assistant", "content": text}
    made = [
        {
            "id": f"call_{turn}_{i}",
            "type": "function",
            "function": {"name": one.name, "arguments": json.dumps(arguments(one, parameters))},
        }
        for i, one in enumerate(calls)
    ]
    return {"role": "assistant", "content": before_calls(text) or None, "tool_calls": made}


def arguments(call: ToolCall, parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments by name, those in order by the names of the tool's parameters. MalformedCall where there are too
    many, or one is given twice."""
    names = list(parameters.get(call.name, {}).get("properties", ()))
    if len(call.ordered) > len(names):
        raise MalformedCall(f"{call.name} takes {len(names)} arguments, {len(call.ordered)} were given")
    given = dict(zip(names, call.ordered, strict=False))
    if twice := [name for name in call.arguments if name in given]:
        raise MalformedCall(f"{call.name}: argument {twice[0]} is given twice")
    return {**given, **call.arguments}


def before_calls(text: str) -> str:
    """What an assistant said before its calls, its thoughts included."""
    thoughts, end, said = text.rpartition("</think>")
    form = form_of(said)
    if form == "llama":
        said = ""
    elif form != "plain":
        said = said.partition(OPENED if form == "hermes" else CALLS)[0]
    return thoughts + end + said
