"""Tools: typed functions that a policy calls, in the forms that chat models write, under limits that hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

import toolbox
from doors import run_of_recipe
from hostile import nested
from selfteach.errors import UserError
from selfteach.importing import load_object
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.wording import left_out
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.kit import Optimization, Rollouts
from selfteach.roles.view import Prefix, in_system, reworded
from selfteach.task.environment import Reply
from selfteach.task.example import Example, Message
from selfteach.task.tool import Tool, ToolError, with_tools
from selfteach.task.tool_calls import MalformedCall, ToolCall, calls_in
from selfteach.task.tool_environment import ToolEnvironment
from selfteach.task.tool_process import Limits, cut
from selfteach.task.trajectory import Trajectory
from tiny import CHATML, tiny_model_folder, tiny_tokenizer

EXAMPLE = Path(__file__).parent.parent / "examples" / "calculator_tool.py"
ASKED = Message(role="user", content="1+2?")

# Short templates in the shape of the models' own.
QWEN = (
    "{%- if tools -%}{{ '<|im_start|>system\\n' -}}"
    "{%- if messages[0].role == 'system' -%}{{ messages[0].content + '\\n\\n' }}{%- endif -%}"
    "{{ '# Tools\\n\\n<tools>' }}{%- for tool in tools -%}{{ '\\n' }}{{ tool | tojson }}{%- endfor -%}"
    "{{ '\\n</tools><|im_end|>\\n' -}}{%- elif messages[0].role == 'system' -%}"
    "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) "
    "or (message.role == 'assistant' and not message.tool_calls) -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' -%}{{ '<|im_start|>assistant' }}"
    "{%- if message.content -%}{{ '\\n' + message.content }}{%- endif -%}"
    "{%- for call in message.tool_calls -%}{%- if call.function -%}{%- set call = call.function -%}{%- endif -%}"
    '{{ \'\\n<tool_call>\\n{"name": "\' + call.name + \'", "arguments": \' }}{{ call.arguments | tojson }}'
    "{{ '}\\n</tool_call>' }}{%- endfor -%}{{ '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' -%}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}"
    "{{ '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{ '<|im_end|>\\n' }}{%- endif -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
LLAMA = (
    "{%- set head = '<|im_start|>' -%}"
    "{%- if messages[0].role == 'system' -%}{%- set said = messages[0].content -%}{%- set messages = messages[1:] -%}"
    "{%- else -%}{%- set said = '' -%}{%- endif -%}"
    "{{ head + 'system\\n' + said + '<|im_end|>' }}"
    "{%- if tools -%}{%- set first = messages[0].content | trim -%}{%- set messages = messages[1:] -%}"
    "{{ head + 'user\\nRespond with a JSON for a function call.' }}"
    "{%- for tool in tools -%}{{ tool | tojson(indent=4) + '\\n\\n' }}{%- endfor -%}{{ first + '<|im_end|>' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message.role not in ('ipython', 'tool') and 'tool_calls' not in message -%}"
    "{{ head + message.role + '\\n' + message.content | trim + '<|im_end|>' }}"
    "{%- elif 'tool_calls' in message -%}"
    "{%- if message.tool_calls | length != 1 -%}{{ raise_exception('single tool-calls only') }}{%- endif -%}"
    "{%- set call = message.tool_calls[0].function -%}"
    '{{ head + \'assistant\\n{"name": "\' + call.name + \'", "parameters": \' }}{{ call.arguments | tojson }}'
    "{{ '}<|im_end|>' }}"
    "{%- else -%}{{ head + 'ipython\\n' }}"
    "{%- if message.content is mapping or message.content is iterable -%}{{ message.content | tojson }}"
    "{%- else -%}{{ message.content }}{%- endif -%}{{ '<|im_end|>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ head + 'assistant\\n' }}{%- endif -%}"
)
MISTRAL = (
    "{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}{%- set ns = namespace(i=0) -%}"
    "{%- for message in messages -%}"
    "{%- if not (message.role == 'tool' or (message.tool_calls is defined and message.tool_calls is not none)) -%}"
    "{%- if (message.role == 'user') != (ns.i % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}"
    "{%- set ns.i = ns.i + 1 -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}"
    "{%- if tools and message == users[-1] -%}"
    "{{ '[AVAILABLE_TOOLS] [' }}{%- for tool in tools -%}{{ tool | tojson }}{%- endfor -%}{{ '][/AVAILABLE_TOOLS]' }}"
    "{%- endif -%}{{ '[INST] ' + message.content + '[/INST]' }}"
    "{%- elif message.tool_calls is defined and message.tool_calls is not none -%}{{ '[TOOL_CALLS] [' }}"
    "{%- for call in message.tool_calls -%}{%- set out = call.function | tojson -%}{{ out[:-1] }}"
    "{%- if call.id | length != 9 -%}{{ raise_exception('ids have nine characters') }}{%- endif -%}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ']<|im_end|>' if loop.last else ', ' }}{%- endfor -%}"
    "{%- elif message.role == 'assistant' -%}{{ ' ' + message.content | trim + '<|im_end|>' }}"
    "{%- elif message.role == 'tool' -%}"
    "{%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 -%}"
    "{{ raise_exception('ids have nine characters') }}{%- endif -%}"
    '{{ \'[TOOL_RESULTS] {"content": \' + message.content + \', "call_id": "\' + message.tool_call_id '
    "+ '\"}[/TOOL_RESULTS]' }}"
    "{%- else -%}{{ raise_exception('only user, assistant and tool') }}{%- endif -%}{%- endfor -%}"
)
TURNS_ONLY = (  # as Gemma's and the arena's models have it: two roles, in turns
    "{%- for message in messages -%}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('in turns') }}{%- endif -%}"
    "{%- if message.role not in ('user', 'assistant') -%}{{ raise_exception('no such role') }}{%- endif -%}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
MISTRALS = (
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
MISTRALS = (*MISTRALS, "[TOOL_CALLS]", "[ARGS]")


def chat_with(template: str, special: Sequence[str] = (), words: Sequence[str] = ()) -> ChatRenderer:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens([AddedToken(one, special=True) for one in special], special_tokens=True)
    tokenizer.add_tokens([AddedToken(one) for one in words])
    return ChatRenderer(tokenizer)


def example(key: str = "k", *, tools: Sequence[Any] = ()) -> Example:
    prompt = (ASKED,)
    return Example(key, with_tools(tools, prompt) if tools else prompt, {"answer": "3"})


def right(example: Example, answer: str) -> float:
    return float(answer.strip() == example.private["answer"])


def begun(
    *tools: Callable[..., Any] | Tool, check: Callable[..., Any] = right, **more: Any
) -> ToolEnvironment:
    made = ToolEnvironment(tools, check, **more)
    made.reset(example())
    return made


def said(environment: ToolEnvironment, text: str) -> Reply:
    return environment.step(Message(role="assistant", content=text))


# --- a tool of a function ---------------------------------------------------------------------------------------------


def test_a_function_is_its_schema() -> None:
    assert Tool.of(toolbox.pick).schema == {
        "type": "function",
        "function": {
            "name": "pick",
            "description": "Pick things of a color.",
            "parameters": {
                "type": "object",
                "properties": {
                    "color": {"type": "string", "enum": ["red", "blue"]},
                    "count": {"type": "integer", "minimum": 0, "description": "how many"},
                },
                "required": ["color", "count"],
            },
        },
    }
    parameters = Tool.of(toolbox.add).parameters
    assert parameters["required"] == ["a"]
    assert parameters["properties"]["b"] == {"type": "integer", "default": 1}
    assert list(Tool.of(toolbox.put).parameters["properties"]) == ["name", "value"]


def bare(a, b: int) -> int:  # type: ignore[no-untyped-def]
    """Documented."""
    return b


def silent(a: int) -> int:
    return a


def spread(*numbers: int) -> int:
    """Documented."""
    return sum(numbers)


def strange(a: Chat) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Documented."""
    return 0


def shapeless(a: ChatRenderer) -> int:
    """Documented."""
    return 0


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (bare, "parameter a has no annotation"),
        (silent, "has no docstring"),
        (spread, r"parameter \*numbers"),
        (strange, "annotations cannot be read"),
        (shapeless, "no JSON schema"),
        (lambda a: a, "needs a function with a name"),
        (str, "tool str"),
        (3, "tool int"),
    ],
)
def test_what_is_no_tool_is_refused_in_one_line(function: Any, why: str) -> None:
    with pytest.raises(UserError, match=why) as refusal:
        Tool.of(function)
    assert len(str(refusal.value).splitlines()) == 1


def test_what_no_process_can_import_must_say_that_it_is_not_isolated() -> None:
    def inner(a: int) -> int:
        """Add what it remembers."""
        return a + len(remembered)

    remembered = [1, 2]
    with pytest.raises(UserError, match=r"isolated=False"):
        Tool.of(inner)
    (answer,) = said(begun(Tool.of(inner, isolated=False)), "inner(1)").messages
    assert answer == {"role": "tool", "content": "3"}


@pytest.mark.parametrize(
    ("function", "arguments", "fits"),
    [
        (toolbox.add, {"a": 1}, True),
        (toolbox.add, {"a": "1"}, False),
        (toolbox.add, {"a": 1.0}, False),
        (toolbox.add, {"a": True}, False),
        (toolbox.add, {"a": None}, False),
        (toolbox.add, {"a": 1, "c": 2}, False),
        (toolbox.add, {}, False),
        (toolbox.add, {"a": 10**300}, True),
        (toolbox.halve, {"x": 3}, True),
        (toolbox.halve, {"x": "3"}, False),
        (toolbox.halve, {"x": float("inf")}, False),
        (toolbox.echo, {"text": 3}, False),
        (toolbox.pick, {"color": "red", "count": 0}, True),
        (toolbox.pick, {"color": "green", "count": 0}, False),
        (toolbox.pick, {"color": "red", "count": -1}, False),
        (toolbox.add, {"a": nested(50)}, False),
    ],
)
def test_arguments_are_what_json_says_they_are(
    function: Callable[..., Any], arguments: dict[str, Any], fits: bool
) -> None:
    tool = Tool.of(function)
    if fits:
        assert tool.validated(arguments) == arguments
    else:
        with pytest.raises(ToolError) as refusal:
            tool.validated(arguments)
        assert len(str(refusal.value)) < 1000


# --- forms ------------------------------------------------------------------------------------------------------------

TWO = [ToolCall("add", {"a": 1, "b": 2}), ToolCall("echo", {"text": "a)<é"})]
FORMS = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'
    '<tool_call>{"name": "echo", "arguments": {"text": "a)<é"}}</tool_call>',
    "llama": '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}; '
    '{"name": "echo", "parameters": {"text": "a)<é"}}',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1, "b": 2}}, '
    '{"name": "echo", "arguments": {"text": "a)<é"}, "id": "call00001"}]',
    "mistral ": '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]echo[CALL_ID]abc[ARGS]{"text": "a)<é"}',
    "plain": 'Let me see.\nadd(a=1, b=2)\n  echo(text="a)<é") ',
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_by_its_name_and_by_its_words(form: str) -> None:
    for text in (FORMS[form], f"<think>\nadd(5)\n</think>\n{FORMS[form]}"):
        assert calls_in(text, form.strip(), ("add", "echo")) == TWO  # type: ignore[arg-type]
        assert calls_in(text, "auto", ("add", "echo")) == TWO


def test_plain_arguments_stand_in_their_order() -> None:
    assert calls_in('add(1,"two",[3,{"a":4}], c = null)', "plain", ["add"]) == [
        ToolCall("add", {"c": None}, (1, "two", [3, {"a": 4}]))
    ]
    assert calls_in("add()", "plain", ["add"]) == [ToolCall("add", {})]


@pytest.mark.parametrize(
    "text",
    ["", "3", "f(x) = add(1)", "f(2)", '{"a": 1}', '{"name": "Ada"}', "{not json}", "add (1)", "use add(1).",
     "<think><tool_call>{}</tool_call></think>3", "[1, 2]", "</tool_call>"],
)  # fmt: skip
def test_a_text_without_a_call_is_an_answer(text: str) -> None:
    assert calls_in(text, "auto", ["add"]) == []


MALFORMED = [
    "<tool_call>", "<tool_call>add(1)</tool_call>", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>', "<tool_call>[]</tool_call>", "<tool_call>{}{}</tool_call>",
    '<tool_call>{"name": "add", "arguments": {"a": 1}',
    '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": ' + "9" * 5000 + "}}</tool_call>",
    "<tool_call>" + "[" * 100_000, "<tool_call>" + '{"a":' * 200 + "1" + "}" * 200, "[TOOL_CALLS]", "[TOOL_CALLS] [3]",
    "[TOOL_CALLS]add[ARGS]1", "[TOOL_CALLS][ARGS]{}", "<|python_tag|>print(open('/etc/passwd').read())",
    '{"name": "add", "parameters": {"a": 1', "add(1, b=2, b=3)", "add(b=2, 1)", "add(1 2)", "add(x)", "add('x')",
    "add(Infinity)", "add([)", "add(,)", "add(1", "well\nadd(",
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_call_is_an_error_and_the_episode_goes_on(text: str) -> None:
    with pytest.raises(MalformedCall):
        calls_in(text, "auto", ["add"])
    environment = begun(toolbox.add)
    reply = said(environment, text)
    assert reply.failed
    assert not reply.done
    assert reply.numbers == {"calls": 0.0, "tool_errors": 1.0}
    assert reply.messages[0]["role"] == "user"
    assert reply.messages[0]["content"].startswith("error: ")
    assert len(reply.messages[0]["content"]) <= 2000
    assert said(environment, "3").reward == 1.0


# --- episodes ---------------------------------------------------------------------------------------------------------


def test_an_episode_calls_reads_and_answers() -> None:
    environment = begun(toolbox.add, toolbox.echo)
    reply = said(environment, FORMS["hermes"])
    assert reply.messages == (
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "a)<é"},
    )
    assert reply.numbers == {"calls": 2.0, "tool_errors": 0.0}
    assert not reply.failed
    assert (reply.reward, reply.done) == (0.0, False)
    final = said(environment, "3")
    assert (final.reward, final.done, final.messages) == (1.0, True, ())
    assert final.numbers == {"calls": 0.0, "tool_errors": 0.0}


def test_a_check_may_give_all_that_a_reward_may() -> None:
    def check(example: Example, answer: str, state: Any) -> dict[str, Any]:
        return {"score": state["n"], "feedback": "so so", "words": len(answer.split())}

    reply = said(begun(toolbox.put, check=check, state=lambda one: {"n": 0.25}), "a b")
    assert (reply.reward, reply.messages[0]["content"]) == (0.25, "so so")
    assert reply.numbers["words"] == 2
    with pytest.raises(UserError, match="check gave"):
        said(begun(toolbox.add, check=lambda example, answer: "yes"), "a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"name": "sub", "parameters": {"a": 1}}', "there is no tool sub; there are: add"),
        ('{"name": "' + "s" * 9999 + '", "parameters": {}}', "there is no tool ss"),
        ('{"name": "add", "parameters": {"a": "1"}}', "add: a: Input should be a valid integer"),
        ("add(1, 2, 3)", "add takes 2 arguments, 3 were given"),
        ("add(1, a=2)", "argument a is given twice"),
        ("add()", "add: a: Field required"),
        ("add(1, c=2)", "add: c: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_call_is_answered_by_what_is_wrong_with_it(text: str, why: str) -> None:
    reply = said(begun(toolbox.add), text)
    assert reply.failed
    assert reply.numbers == {"calls": 1.0, "tool_errors": 1.0}
    (answer,) = reply.messages
    assert answer["role"] == "tool"
    assert why in answer["content"]
    assert len(answer["content"]) < 300


def test_calls_of_one_turn_are_bounded() -> None:
    reply = said(begun(toolbox.add, most_calls=2), "add(1)\n" * 5)
    assert [one["content"] for one in reply.messages] == [
        "2", "2", "error: 5 calls in a turn; only the first 2 were made",
    ]  # fmt: skip
    assert reply.failed


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        (toolbox.hang, "hang took longer than 0.9 s"),
        (toolbox.fail, "fail raised ValueError: no such luck x"),
        (toolbox.mute, "mute raised Mute"),
        (toolbox.leave, "leave asked to exit"),
        (toolbox.vanish, "vanish ended its process"),
        (toolbox.crash, "crash ended its process"),
        (toolbox.eat, "eat ran out of memory"),
        (toolbox.nibble, "nibble ran out of memory"),
        (toolbox.cyclic, "cyclic raised PydanticSerializationError"),
    ],
)
def test_a_tool_that_breaks_is_an_error_and_the_episode_goes_on(tool: Callable[..., Any], why: str) -> None:
    environment = begun(
        tool, toolbox.add, limits=Limits(seconds=0.9 if tool is toolbox.hang else 5, memory=128 << 20)
    )
    reply = said(environment, f"{tool.__name__}()\nadd(1, 2)")
    broken, well = (one["content"] for one in reply.messages)
    assert broken.startswith(f"error: {why}")
    assert len(broken) < 500
    assert well == "3"
    assert reply.failed
    assert reply.numbers == {"calls": 2.0, "tool_errors": 1.0}
    assert said(environment, "3").reward == 1.0


@pytest.mark.parametrize(
    ("tool", "text"),
    [
        (toolbox.binary, "\\xff\x00ok" * 10),
        (toolbox.surrogate, "a\\ud800b"),
        (toolbox.table, '{"a":[1,null],"b":Infinity,"é":"ü"}'),
    ],
)
@pytest.mark.parametrize("isolated", [True, False])
def test_whatever_a_tool_gives_is_text(tool: Callable[..., Any], text: str, isolated: bool) -> None:
    (answer,) = said(begun(Tool.of(tool, isolated=isolated)), f"{tool.__name__}()").messages
    assert answer["content"] == text


@pytest.mark.parametrize("isolated", [True, False])
def test_a_megabyte_is_cut_in_its_middle(isolated: bool) -> None:
    environment = begun(Tool.of(toolbox.megabyte, isolated=isolated), limits=Limits(characters=500))
    (answer,) = said(environment, "megabyte()").messages
    assert len(answer["content"]) <= 500
    assert answer["content"][0] == "<"
    assert answer["content"][-1] == ">"
    left = 1_000_002 - (answer["content"].count("x") + 2)
    assert f"[... {left} characters left out ...]" in answer["content"]


def test_what_is_cut_says_how_much() -> None:
    assert cut("x" * 100, 100) == "x" * 100
    assert cut("a" * 100 + "b" * 101, 100) == "a" * 25 + "\n[... 151 characters left out ...]\n" + "b" * 25


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_state_follows_from_the_example_and_the_calls_alone() -> None:
    def begin(one: Example) -> dict[str, int]:
        return {one.key: 7}

    turns = ['put("a", 1)\nput("b", 2)', 'get("k")\nget("a")\nget("c")', "3"]
    kept = ToolEnvironment([toolbox.put, toolbox.get], right, state=begin)
    first, again = [], []
    for played in (first, again):
        kept.reset(example())
        played += [said(kept, turn) for turn in turns]
    assert first == again
    assert [[m["content"] for m in one.messages] for one in first[:2]] == [
        ["2 kept", "3 kept"], ["7", "1", "error: get raised KeyError: 'c'"],
    ]  # fmt: skip
    other = ToolEnvironment([toolbox.put, toolbox.get], right, state=begin)
    other.reset(example("j"))
    assert said(other, 'get("a")').failed


def test_a_tool_without_new_state_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"tool forgetful: it has a parameter 'state'"):
        said(begun(toolbox.forgetful), "forgetful()")
    with pytest.raises(UserError, match="no JSON value"):
        begun(toolbox.put, state=lambda one: {1, 2})


@pytest.mark.parametrize("isolated", [True, False])
def test_a_parameter_state_may_be_the_policys_to_give(isolated: bool) -> None:
    posted = Tool.of(toolbox.post, isolated=isolated, stateful=False)
    assert set(posted.parameters["properties"]) == {"city", "state"}
    reply = said(begun(posted), 'post("Reno", "NV")')
    assert (reply.messages[0]["content"], reply.failed) == ("sent to Reno, NV", False)
    with pytest.raises(UserError, match="stateful=False"):
        said(begun(toolbox.post), 'post("Reno")')
    with pytest.raises(UserError, match="needs a parameter 'state'"):
        Tool.of(len_of, stateful=True)


def len_of(text: str) -> int:
    """Its length."""
    return len(text)


def test_limits_and_forms_are_checked() -> None:
    with pytest.raises(UserError, match="limits"):
        Limits(seconds=float("nan"))
    with pytest.raises(UserError, match="form"):
        begun(toolbox.add, form="xml")
    with pytest.raises(UserError, match="two tools"):
        begun(toolbox.add, toolbox.add)
    with pytest.raises(UserError, match="one tool"):
        begun()


# --- templates --------------------------------------------------------------------------------------------------------

CALL = {
    "qwen": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "llama": '{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
    "turns": "add(1)",
    "chatml": "add(1)",
}


def chats() -> dict[str, ChatRenderer]:
    tags = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    return {
        "qwen": chat_with(QWEN, words=tags),
        "llama": chat_with(LLAMA, special=["<|python_tag|>"]),
        "mistral": chat_with(MISTRAL, special=MISTRALS),
        "turns": chat_with(TURNS_ONLY),
        "chatml": chat_with(CHATML),
    }


@pytest.fixture(scope="module", params=list(CALL))
def named(request: pytest.FixtureRequest) -> tuple[str, ChatRenderer]:
    return request.param, chats()[request.param]


def test_tools_are_told_in_the_templates_own_way(named: tuple[str, ChatRenderer]) -> None:
    name, chat = named
    prompt = example(tools=[toolbox.add, toolbox.pick]).prompt
    shown = chat.show(chat.prompt_ids(prompt))
    assert left_out(prompt, shown, chat) == []
    assert left_out(prompt, shown.replace("pick", "????").replace("Pick", "????"), chat) == [prompt[0]]
    marks = {"qwen": "<tools>", "llama": "for a function call", "mistral": "[AVAILABLE_TOOLS]"}
    assert marks.get(name, "add(a: integer, b: integer = 1): Add two numbers.") in shown
    for other in set(marks) - {name}:
        assert marks[other] not in shown
    begins = "<|im_start|>user\nYou can call" if name == "turns" else "<|im_start|>system\nYou can call"
    assert (begins in shown) == (name in ("turns", "chatml"))
    assert chat.show(chat.prompt_ids((ASKED,))).count("add") == 0


def test_a_system_prompt_stands_behind_what_tells_of_tools() -> None:
    chat = chats()["chatml"]
    prompt = in_system(example(tools=[toolbox.add]), "Be brief.")
    shown = chat.show(chat.prompt_ids(prompt))
    assert shown.count("system\n") == 1
    assert shown.index("add(a:") < shown.index("Be brief.") < shown.index("1+2?")


def test_views_keep_the_tools_first() -> None:
    one = example(tools=[toolbox.add])
    for shown in (
        in_system(one, "x"),
        in_system(one.behind(in_system(one, "y")), "x"),
        reworded(one, "x"),
        Prefix((ASKED,))(Trajectory(one, [], (), "", 0, False), [], {}),
    ):
        assert [m["role"] for m in shown].index("tools") == 0
        assert [m["role"] for m in shown].count("tools") == 1
        assert any(m["content"].startswith(("x", "1+2?")) for m in shown[1:])
    twice = in_system(one.behind(in_system(one, "y")), "x")
    assert [m["role"] for m in twice] == ["tools", "system", "user"]
    assert twice[1]["content"] == "x\n\ny"


@pytest.mark.parametrize(
    "content", ["", "{}", "[3]", '[{"name": "add"}]', "[" * 10_000, '[{"function": []}]']
)
def test_tools_that_are_none_are_refused_in_one_line(content: str) -> None:
    chat = chats()["chatml"]
    with pytest.raises(UserError, match="JSON list of tools' schemas"):
        chat.prompt_ids((Message(role="tools", content=content), ASKED))
    with pytest.raises(UserError, match="must be the first"):
        chat.prompt_ids((ASKED, *with_tools([toolbox.add], ())))


def test_a_conversation_with_calls_goes_on_behind_what_was_written(named: tuple[str, ChatRenderer]) -> None:
    name, chat = named
    prompt = example(tools=[toolbox.add]).prompt
    ids = [*chat.tokenizer.encode(CALL[name], add_special_tokens=False), chat.end_of_turn or 0]
    words = chat.text(ids)
    assert calls_in(words, "auto", ["add"])[0].name == "add"
    answers = said(begun(toolbox.add), words).messages
    assert [one["content"] for one in answers] == ["2"]
    before = chat.prompt_ids(prompt)
    following = chat.following_ids(answers)
    whole = chat.prompt_ids((*prompt, Message(role="assistant", content=words), *answers))
    assert chat.extends(prompt, words, answers) == (whole == [*before, *ids, *following])
    # Mistral's template writes an id into the call, which the model did not.
    assert chat.extends(prompt, words, answers) == (name != "mistral")
    assert "2" in chat.show(following)
    if name == "mistral":
        assert "[TOOL_CALLS] [{" in chat.show(whole)
        assert whole.count(chat.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")) == 1
        again = (*prompt, *[Message(role="assistant", content=words), *answers] * 2)
        assert left_out(again, chat.show(chat.prompt_ids(again)), chat) == []


def test_answers_of_several_calls_keep_their_order(named: tuple[str, ChatRenderer]) -> None:
    _, chat = named
    answers = [Message(role="tool", content=one) for one in ("7777", "8888")]
    shown = chat.show(chat.following_ids(answers))
    assert shown.index("7777") < shown.index("8888")


def test_a_malformed_call_can_be_told_so_in_every_template(named: tuple[str, ChatRenderer]) -> None:
    name, chat = named
    wrong = CALL[name][:-6]
    words = chat.text([*chat.tokenizer.encode(wrong, add_special_tokens=False), chat.end_of_turn or 0])
    messages = (Message(role="user", content="error: not JSON"),)
    talk = [*example(tools=[toolbox.add]).prompt, Message(role="assistant", content=words), *messages]
    assert "error: not JSON" in chat.show(chat.prompt_ids(talk))
    assert "error: not JSON" in chat.show(chat.following_ids(messages))


def test_control_tokens_that_call_a_tool_are_said_and_others_are_not() -> None:
    chat = chats()["mistral"]
    ids = chat.tokenizer.encode('[INST][TOOL_CALLS]add[ARGS]{"a": 1}<|im_end|>', add_special_tokens=False)
    assert chat.text(ids) == '[TOOL_CALLS]add[ARGS]{"a": 1}'
    llama = chats()["llama"]
    assert llama.text(llama.tokenizer.encode("<|python_tag|>{}<|im_end|>")) == "<|python_tag|>{}"
    assert (
        llama.show(llama.prompt_ids([ASKED, Message(role="assistant", content="<|python_tag|>{}")])).count(
            "python_tag"
        )
        == 0
    )


def test_an_experts_call_in_control_tokens_is_written_as_the_template_writes_it() -> None:
    chat = chats()["mistral"]
    ids = chat.completion_ids(CALL["mistral"])
    assert ids[0] == chat.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    assert ids[-1] == chat.end_of_turn
    assert calls_in(chat.text(ids)) == [ToolCall("add", {"a": 1})]
    qwen = chats()["qwen"]
    assert qwen.text(qwen.completion_ids(CALL["qwen"])) == CALL["qwen"]


def test_what_a_tool_answers_forges_no_turn(named: tuple[str, ChatRenderer]) -> None:
    _, chat = named
    (answer,) = said(begun(toolbox.hostile), "hostile()").messages
    ids = chat.following_ids([answer])
    harmless = chat.following_ids([Message(role="tool", content="ok")])
    for token in chat.tokenizer.added_tokens_decoder:
        assert ids.count(token) == harmless.count(token), chat.show([token])
    schema = with_tools([toolbox.hostile], ())[0]
    forged = Message(role="tools", content=schema["content"].replace("Answer words", "<|im_end|>"))
    plain = Message(role="tools", content=schema["content"].replace("Answer words", "?"))
    counts = [chat.prompt_ids([one, ASKED]).count(chat.end_of_turn or 0) for one in (forged, plain)]
    assert counts[0] == counts[1]


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [QWEN, TURNS_ONLY])
@pytest.mark.parametrize("maker", ["make", "told"])
def test_the_example_trains_on_its_tools(template: str, maker: str, tmp_path: Path) -> None:
    model = str(tiny_model_folder(tmp_path / "model", template=template))
    small = {
        "rollouts": Rollouts(max_tokens=8, per_prompt=2, max_turns=2),
        "optimization": Optimization(prompts=2),
    }
    task = load_object(f"{EXAMPLE}:{maker}")()
    learner = run_of_recipe(GRPO(**small), model, tmp_path, problems=2, task=task)[1]
    learner.now.step = 0
    tools = learner.writing.tools(0)
    prompts = learner.writing.drawn(2, 0)
    turns = [json.loads(one.example.private["solution"]) for one in prompts]
    wrong = [["mul(1", turns[0][0].replace(",", ",,"), turns[0][1]], ["nope(1)"]]
    for plays, reward in ((turns, 1.0), (wrong, None)):
        played = tools.player(task.environment).play([tools.started(one) for one in prompts], 0, plays)
        for one in played:
            assert one.grade is not None
            assert reward is None or one.grade.reward == reward
            assert one.grade.numbers["environment_failed"] == 0
    assert played[0].grade is not None
    assert played[0].grade.numbers["tool_errors"] == 2
    batch = learner.collect(0)
    assert len(batch.rows) >= 4
    assert {"calls", "tool_errors"} <= set(batch.rows[0].grade.numbers)


def test_a_function_of_a_file_is_loaded_in_the_worker() -> None:
    task = load_object(f"{EXAMPLE}:make")()
    environment = task.environment()
    one = task.train(0)
    assert environment.reset(one) == one.prompt
    call, answer = json.loads(one.private["solution"])
    assert said(environment, call).messages[0]["content"] == one.private["answer"]
    assert said(environment, answer).reward == 1.0
