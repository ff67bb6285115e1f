"""What a policy writes as OpenAI's messages, and such messages as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selfteach.task.example import Message
from selfteach.task.openai_messages import announced, assistant, message_of
from selfteach.task.tool_calls import MalformedCall

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}},
}
CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"<tool_call>{CALL}</tool_call>", None),
        (
            f"<think>add(2)</think>so: <tool_call>{CALL}</tool_call> and so on",
            "<think>add(2)</think>so: ",
        ),
        (f"[TOOL_CALLS][{CALL}]", None),
        ('so: [TOOL_CALLS]add[ARGS]{"a": 1}', "so: "),
        (CALL, None),
        (f"<think>x</think>{CALL}", "<think>x</think>"),
        ("so:\nadd(1)", "so:\nadd(1)"),
        ("add(a=1)", "add(a=1)"),
    ],
)
def test_calls_of_any_form_are_read_out_of_the_text(text: str, content: str | None) -> None:
    said = assistant(text, [ADD], turn=2)
    assert said["role"] == "assistant"
    assert said["content"] == content
    [call] = said["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_2_0", "function", "add")
    assert json.loads(call["function"]["arguments"]) == {"a": 1}


def test_ordered_arguments_go_by_the_names_of_the_tools_parameters() -> None:
    [call] = assistant('add(1, b="é")', [ADD], turn=0)["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": 1, "b": "é"}


@pytest.mark.parametrize("text", ["add(1, 2, 3)", "add(1, a=2)", "<tool_call>{", "<tool_call>[]</tool_call>"])
def test_calls_that_cannot_be_read_are_told(text: str) -> None:
    with pytest.raises(MalformedCall):
        assistant(text, [ADD], turn=0)


@pytest.mark.parametrize("text", ["", "so", "f(x)", "<tool_call>{", CALL])
def test_without_tools_every_text_is_content(text: str) -> None:
    assert assistant(text, [], turn=0) == {"role": "assistant", "content": text}


def test_a_tool_of_another_name_is_called_by_its_own_words() -> None:
    [call] = assistant('<tool_call>{"name": "rm", "arguments": {"x": [1]}}</tool_call>', [ADD], turn=0)[
        "tool_calls"
    ]
    assert call["function"] == {"name": "rm", "arguments": '{"x": [1]}'}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    ],
)
def test_parts_of_text_are_one_text(content: Any, text: str) -> None:
    assert message_of({"role": "tool", "content": content, "name": "x"}) == Message(role="tool", content=text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "a part image_url"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "a part text"),
        ({"role": "user", "content": [7]}, "a part int"),
        ({"role": "user", "content": 7}, "content is int"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "calls of tools"),
        ({"content": "a"}, "has no role"),
    ],
)
def test_what_is_no_text_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        message_of(given)


def test_tools_are_announced_by_their_schemas() -> None:
    assert announced([]) == ()
    [one] = announced([ADD])
    assert (one["role"], json.loads(one["content"])) == ("tools", [ADD])
