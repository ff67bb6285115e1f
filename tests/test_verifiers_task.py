"""A verifiers environment runs as it is: what is shown, when it ends and what it earns are the library's own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task.environment import Reply, checked, opening_in
from selfteach.task.example import Example, Message
from selfteach.task.rows import make_task
from selfteach.task.verifiers_task import VerifiersTask

if find_spec("verifiers") is None:
    pytest.skip("needs the extra verifiers", allow_module_level=True)

import httpx
import verifiers as vf
from datasets import Dataset
from openai import AsyncOpenAI

import verifiers_worlds as worlds

HERE = Path(__file__).parent


def call(name: str, arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


# --- the library's own rollout, against a server that reads its answers from a script -------------------------------


def served(turns: Sequence[str], requests: list[Mapping[str, Any]]) -> Any:
    """The library's client, with answers as a server makes them of a policy's text (hermes calls)."""
    script = iter(turns)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        requests.append(asked)
        text = next(script)
        content, *written = text.split("<tool_call>")
        calls = [
            {"id": f"x{len(requests)}{i}", "type": "function", "function": {**one, "arguments": inside}}
            for i, part in enumerate(written)
            for one in [json.loads(part.partition("</tool_call>")[0])]
            for inside in [json.dumps(one["arguments"])]
        ]
        message = {"role": "assistant", "content": content or None, "tool_calls": calls or None}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return httpx.Response(200, json=told)

    there = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return vf.OpenAIChatCompletionsClient(
        AsyncOpenAI(api_key="none", base_url="http://nowhere/v1", http_client=there, max_retries=0)
    )


def theirs(environment: Any, row: Any, turns: Sequence[str]) -> tuple[Any, list[Mapping[str, Any]]]:
    requests: list[Mapping[str, Any]] = []
    client = served(turns, requests)
    found = asyncio.run(environment.run_group([row], client, "m", {}))
    return found[0], requests


def ours(task: Any, example: Example, turns: Sequence[str]) -> tuple[list[Message], list[Reply]]:
    """What the policy has read when it writes its last turn, and all replies."""
    replies: list[Reply] = []
    with closing(task.environment()) as environment:
        seen = list(environment.reset(example))
        for turn in turns:
            replies.append(checked(environment.step(Message(role="assistant", content=turn))))
            if replies[-1].done:
                break
            seen += [Message(role="assistant", content=turn), *replies[-1].messages]
    return seen, replies


GUESSES = {
    "found": ["4", "7"],
    "at once": ["7"],
    "never": ["1", "2", "3", "4", "7"],
    "given up": ["give up"],
    "stopped": ["1", "nothing"],
}
PLAYED = [
    ("single", 3, ["<think>hm</think><answer>7</answer>"], 1),
    ("single", 4, ["<answer>8</answer>"], 1),
    ("single", 4, ["nine"], 1),
    *(("multi", 3, turns, len(turns[:4])) for turns in GUESSES.values()),
    ("tools", 3, ["It is 7."], 1),
    ("tools", 3, ["Let me add. " + call("add", {"a": 3, "b": 4}), "7"], 2),
    ("tools", 3, [call("add", {"a": 3}) + call("add", {"a": 3, "b": 4}), "<think>so</think>7"], 2),
    ("tools", 3, [call("fail", {"why": "x"}), call("nothing", {}), call("add", {"c": 1}), "6"], 4),
    ("tools", 3, [call("add", {"a": i}) for i in range(6)], 5),
    ("group", 3, ["<answer>7</answer>"], 1),
    ("group", 23, [call("add", {"a": 3, "b": 4}), "7"], 2),
]


@pytest.mark.parametrize(("world", "row", "turns", "length"), PLAYED)
def test_a_rollout_is_the_librarys_own(world: str, row: int, turns: Sequence[str], length: int) -> None:
    environment = getattr(worlds, world)()
    task = VerifiersTask(environment)
    example = task.example("train", row)
    seen, replies = ours(task, example, turns)
    output, requests = theirs(environment, environment.get_dataset()[row], turns)
    assert len(replies) == len(requests) == length
    assert replies[-1].done
    assert replies[-1].reward == output["reward"]
    assert not any(one.reward for one in replies[:-1])
    # The number "success" is the episode's; a lambda's name is none.
    wanted = {
        {"success": "rubric_success", "<lambda>": "_lambda_"}.get(k, k): v
        for k, v in output["metrics"].items()
    }
    assert replies[-1].numbers == wanted
    assert wanted
    last = requests[-1]
    assert [(one["role"], one["content"]) for one in seen if one["role"] not in ("tools", "assistant")] == [
        (one["role"], one["content"]) for one in last["messages"] if one["role"] != "assistant"
    ]
    announced = [json.loads(one["content"]) for one in seen if one["role"] == "tools"]
    assert announced == ([last["tools"]] if "tools" in last else [])
    assert (world == "tools") <= bool(announced)
    assert tuple(seen[: len(example.prompt)]) == example.prompt


def test_an_environment_that_the_library_brings_runs_as_it_is() -> None:
    environment = vf.ReasoningGymEnv("gcd", num_train_examples=12, num_eval_examples=4, seed=5)
    task = VerifiersTask(environment)
    assert (len(task.trained), len(task.kept)) == (12, 4)
    entry = environment.rg_dataset[int(task.example("train", 2).private["answer"])]
    rewards = []
    for said in (f"<answer>{entry['answer']}</answer>", "<answer>0</answer>", "no"):
        _, replies = ours(task, task.example("train", 2), [said])
        output, _ = theirs(environment, environment.get_dataset()[2], [said])
        assert (replies[0].reward, replies[0].numbers) == (output["reward"], output["metrics"])
        rewards.append(replies[0].reward)
    assert rewards[0] == 1.0 > max(rewards[1:])


def test_what_is_said_last_is_in_the_reply() -> None:
    task = VerifiersTask(worlds.multi())
    _, replies = ours(task, task.example("train", 3), ["give up"])
    assert replies[-1].messages == (Message(role="user", content="It was 7"),)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_train_follows_from_seed_and_index_and_meets_each_row_once_an_epoch() -> None:
    task, again = VerifiersTask(worlds.single(), seed=1), VerifiersTask(worlds.single(), seed=1)
    count = len(task.trained)
    first = [task.train(i) for i in range(count)]
    assert first == [again.train(i) for i in range(count)]
    assert len({one.key for one in first}) == count
    assert {one.key for one in first} == {task.train(count + i).key for i in range(count)}
    other = VerifiersTask(worlds.single(), seed=2)
    assert [one.key for one in first] != [other.train(i).key for i in range(count)]


def test_without_an_eval_dataset_a_share_is_held_out_whatever_the_order() -> None:
    task = VerifiersTask(worlds.single())
    trained = {task.train(i).problem for i in range(len(task.trained))}
    held_out = {one.problem for one in task.held_out(len(task.kept))}
    assert len(trained) + len(held_out) == 20
    assert 1 <= len(held_out) <= 5
    assert not trained & held_out
    turned = worlds.single()
    turned.dataset = turned.dataset.select(range(19, -1, -1))
    again = VerifiersTask(turned)
    assert {one.problem for one in again.held_out(len(again.kept))} == held_out
    assert {one.problem for one in task.held_out(21)} == held_out


def test_rows_of_the_eval_dataset_are_held_out_and_not_trained_on() -> None:
    task = VerifiersTask(worlds.multi())
    assert [one.problem for one in task.held_out(4)] == [f"{i} + {i + 1} = ?" for i in range(6, 10)]
    assert {task.train(i).problem for i in range(6)} == {f"{i} + {i + 1} = ?" for i in range(6)}
    assert len(task.trained) == 6


def test_episodes_that_begin_alike_are_told_apart_by_the_rest_of_their_rows() -> None:
    games = Dataset.from_list([{"question": "Play!", "info": {"game": i}} for i in range(20)])
    task = VerifiersTask(vf.SingleTurnEnv(dataset=games, rubric=vf.Rubric(funcs=[worlds.length])))
    assert len(task.trained) + len(task.kept) == 20
    assert 1 <= len(task.kept) <= 5


def test_answer_and_info_are_private() -> None:
    example = VerifiersTask(worlds.multi()).example("train", 3)
    assert example.private == {"answer": "7", "info": '{"first": 3}'}
    assert not any("7" in one["content"] for one in example.prompt)


def test_an_example_of_another_task_is_refused() -> None:
    task = VerifiersTask(worlds.multi(), name="mine")
    assert task.train(0).key.startswith("mine/train/")
    for key in ("mine/train/99", "mine/test/0", "theirs/train/0", "0", "mine/train/-1"):
        with pytest.raises(UserError, match="is none of mine"):
            task.environment().reset(Example(key, ()))


def test_a_prompt_that_is_made_when_the_rollout_begins_is_the_examples() -> None:
    class Late(worlds.Guessing):  # type: ignore[misc]
        async def setup_state(self, state: Any) -> Any:
            state["prompt"] = [{"role": "user", "content": f"made of {state['answer']}"}]
            return await super().setup_state(state)

    task = VerifiersTask(Late(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[worlds.quick])))
    assert task.example("train", 1).problem == "made of 3"


@pytest.mark.parametrize(
    ("limits", "longest"), [((4,), 4), ((-1,), None), ((4, 7), 7), ((4, -1), None), ((4, None), None)]
)
def test_an_episode_is_as_long_as_the_environment_allows(
    limits: Sequence[int | None], longest: int | None
) -> None:
    environments = [worlds.multi() for _ in limits]
    for one, limit in zip(environments, limits, strict=True):
        one.max_turns = limit
    environment = environments[0] if len(limits) == 1 else vf.EnvGroup(environments)
    assert VerifiersTask(environment).max_turns == longest


# --- what a policy writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["<tool_call>{", "add(1, 2, 3)", "add(1, a=2)", "<tool_call>[]</tool_call>"])
def test_a_call_that_cannot_be_read_is_text_and_illegal(text: str) -> None:
    """As a model server has it: the environment, which finds no call, ends the rollout and scores it."""
    task = VerifiersTask(worlds.tools())
    _, replies = ours(task, task.example("train", 3), [text])
    assert (replies[-1].failed, replies[-1].done, replies[-1].reward) == (True, True, 0.0)


def test_plain_calls_are_made() -> None:
    task = VerifiersTask(worlds.tools())
    _, replies = ours(task, task.example("train", 3), ["add(3, 4)", "7"])
    assert replies[0].messages == (Message(role="tool", content="7"),)
    assert [(one.failed, one.reward) for one in replies] == [(False, 0.0), (False, 1.0)]


def test_an_empty_turn_and_a_stopping_error_of_a_tool_end_the_rollout_scored_as_the_library_does() -> None:
    task = VerifiersTask(worlds.tools(stop_errors=[ValueError]))
    for turn in ("", call("fail", {"why": "x"})):
        _, replies = ours(task, task.example("train", 3), [turn])
        output, _ = theirs(task.inner, task.inner.get_dataset()[3], [turn])
        assert output["error"]
        assert (replies[-1].done, replies[-1].failed, replies[-1].reward) == (True, True, output["reward"])


# --- environments that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turn", "raised", "words"),
    [
        ("break", ZeroDivisionError, "of order"),
        ("infra", RuntimeError, "no sandbox"),
        ("exit", SystemExit, "3"),
        ("picture", ValueError, "image_url: the policy reads text alone"),
    ],
)
def test_what_an_environment_raises_is_raised_and_ends_no_other(
    turn: str, raised: type[BaseException], words: str
) -> None:
    task = VerifiersTask(worlds.multi())
    beside = task.environment()
    beside.reset(task.example("train", 3))
    with pytest.raises(raised, match=words):
        ours(task, task.example("train", 3), [turn])
    assert beside.step(Message(role="assistant", content="7")).done
    assert ours(task, task.example("train", 3), ["7"])[1][-1].reward == 2.125


class Odd(worlds.Guessing):  # type: ignore[misc]
    """Asks for something else than the next turn: its ``kind`` says what."""

    kind = ""

    async def get_prompt_messages(self, state: Any) -> Any:
        given = await super().get_prompt_messages(state)
        if self.kind == "no prompt":
            return []
        if self.kind == "picture":
            part = {"type": "image_url", "image_url": {"url": "data:,"}}
            return [{"role": "user", "content": [part]}]
        if self.kind == "anew" and state["trajectory"]:
            return [given[0], given[-1]]
        if self.kind == "other words" and state["trajectory"]:
            return [given[0], {"role": "assistant", "content": "I said so"}, *given[2:]]
        if self.kind == "at once":
            asked = (self.get_model_response(state, given) for _ in range(2))
            await asyncio.gather(*asked)
        return given


def odd(kind: str) -> VerifiersTask:
    environment = Odd(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[worlds.quick]))
    environment.kind = kind
    return VerifiersTask(environment)


@pytest.mark.parametrize("kind", ["anew", "other words"])
def test_a_conversation_that_is_written_anew_is_refused(kind: str) -> None:
    task = odd(kind)
    with pytest.raises(ValueError, match="writes the conversation anew"):
        ours(task, task.train(0), ["no", "no"])
    assert len(ours(odd(""), task.train(0), ["no", "no"])[1]) == 2


def test_two_requests_at_a_time_are_refused() -> None:
    task = odd("at once")
    example = task.train(0)
    with pytest.raises(RuntimeError, match="two turns at a time"):
        ours(task, example, ["1"])


@pytest.mark.parametrize(
    ("kind", "words"), [("no prompt", "prompt is empty"), ("picture", "image_url: the policy reads text")]
)
def test_an_example_without_a_prompt_of_text_is_named(kind: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"example verifiers/train/\d has no prompt: ValueError: .*{words}"):
        odd(kind).train(0)


def test_a_rollout_that_ends_at_once_has_no_prompt() -> None:
    class Broken(worlds.Guessing):  # type: ignore[misc]
        async def setup_state(self, state: Any) -> Any:
            raise vf.InfraError("no sandbox")

    task = VerifiersTask(Broken(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[worlds.length])))
    with pytest.raises(UserError, match=r"ends before it asks for a turn .*no sandbox"):
        task.train(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_a_reward_that_is_no_number_to_train_on_is_refused(value: float) -> None:
    environment = vf.SingleTurnEnv(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[lambda completion: value]))
    task = VerifiersTask(environment)
    with pytest.raises(ValueError, match="a reward of"):
        ours(task, task.train(0), ["1"])


def test_rewards_over_groups_are_refused() -> None:
    def ranked(completions: Any) -> list[float]:
        return [0.0 for _ in completions]

    task = VerifiersTask(vf.SingleTurnEnv(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[ranked])))
    with pytest.raises(AssertionError, match="group-level reward functions"):
        ours(task, task.train(0), ["1"])


def test_only_rows_to_hold_out_are_no_task_to_train_on() -> None:
    rubric = vf.Rubric(funcs=[worlds.length])
    alone = VerifiersTask(vf.SingleTurnEnv(eval_dataset=worlds.rows(4), rubric=rubric))
    same = VerifiersTask(vf.SingleTurnEnv(dataset=worlds.rows(4), eval_dataset=worlds.rows(4), rubric=rubric))
    for task in (alone, same):
        assert len(task.held_out(4)) == 4
        with pytest.raises(UserError, match="has no row to train on"):
            task.train(0)


def test_one_row_is_trained_on_and_none_held_out() -> None:
    task = VerifiersTask(vf.SingleTurnEnv(dataset=worlds.rows(1), rubric=vf.Rubric(funcs=[worlds.length])))
    assert task.train(5).key == "verifiers/train/0"
    with pytest.raises(UserError, match="no row is held out: give it an eval_dataset"):
        task.held_out(1)


def test_a_dataset_that_cannot_be_built_is_told_in_one_line() -> None:
    def build() -> Dataset:
        return Dataset.from_list([{"text": "no question, no prompt"}])

    environment = vf.SingleTurnEnv(dataset=build, rubric=vf.Rubric(funcs=[worlds.length]))
    with pytest.raises(UserError, match=r"its dataset cannot be built: KeyError: .*question"):
        VerifiersTask(environment)


@pytest.mark.parametrize("other", [object(), vf.Rubric(), 5])
def test_another_object_is_refused(other: object) -> None:
    with pytest.raises(UserError, match=r"takes an Environment of verifiers 0\.1\.11 to 0\.3"):
        VerifiersTask(other)


def test_a_closed_rollout_is_cleaned_up() -> None:
    cleaned = threading.Event()

    class Cleaned(worlds.Guessing):  # type: ignore[misc]
        @vf.cleanup
        async def done(self, state: Any) -> None:
            cleaned.set()

    task = VerifiersTask(Cleaned(dataset=worlds.rows(4), rubric=vf.Rubric(funcs=[worlds.quick])))
    environment = task.environment()
    environment.reset(Example("verifiers/train/0", ()))
    assert not cleaned.is_set()
    environment.close()
    assert cleaned.wait(10)


# --- behind a name --------------------------------------------------------------------------------------------------


def test_what_makes_an_environment_is_a_task() -> None:
    loaded = make_task(f"{HERE / 'verifiers_worlds.py'}:load_environment", seed=3)
    assert isinstance(loaded, VerifiersTask)
    assert loaded.seed == 3
    with pytest.raises(UserError, match="rewards each turn itself"):
        loaded.grade(loaded.train(0), "7")
    with pytest.raises(UserError, match="leave the reward function out"):
        make_task(worlds.multi, reward=lambda completion: 1.0)


def test_a_few_shots_stand_in_the_opening() -> None:
    rows = Dataset.from_list([{"question": f"{i} + {i}", "answer": str(2 * i)} for i in range(8)])
    shots = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "2"}]
    environment = vf.SingleTurnEnv(
        dataset=rows, few_shot=shots, rubric=vf.Rubric(funcs=[lambda completion: 1.0])
    )
    task = VerifiersTask(environment)
    example = task.train(0)
    assert [one["role"] for one in example.prompt] == ["user", "assistant", "user"]
    with closing(task.environment()) as episode:
        assert opening_in(episode.reset(example)) == tuple(example.prompt)
