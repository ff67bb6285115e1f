"""τ²-bench as episodes: reference actions win, everything else that a model writes is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec

import pytest

from selfteach.errors import UserError
from selfteach.task import tau2
from selfteach.task.environment import Reply, turns_of
from selfteach.task.example import Message
from selfteach.task.opening import open_task
from selfteach.task.options import TaskOptions
from selfteach.task.tau2 import Tau2Task

needs_library = pytest.mark.skipif(find_spec("tau2") is None, reason="needs the extra tau2")


def played(task: Tau2Task, number: str, turns: Sequence[str]) -> list[Reply]:
    environment = task.environment()
    environment.reset(task.example(tau2.by_number(task.domain)[number]))
    return [environment.step(Message(role="assistant", content=turn)) for turn in turns]


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.skipif(find_spec("tau2") is not None, reason="the extra tau2 is there")
def test_without_the_library_the_extra_is_named() -> None:
    with pytest.raises(UserError, match=r"pip install 'selfteach\[tau2\]'"):
        open_task("tau2:retail")


def test_bad_names_and_options_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match="no domain 'retial' here; did you mean retail"):
        open_task("tau2:retial")
    with pytest.raises(UserError, match="no domain ''"):
        open_task("tau2")
    with pytest.raises(UserError, match="no setting 'max_turn'; did you mean max_turns"):
        open_task("tau2:retail?max_turn=3")
    with pytest.raises(UserError, match="does not heed answer_format"):
        open_task("tau2:retail", options=TaskOptions(answer_format="number"))


@needs_library
@pytest.mark.parametrize(("domain", "counts"), [("retail", (74, 40)), ("airline", (30, 20))])
def test_splits_share_no_task_and_examples_open_alike(domain: str, counts: tuple[int, int]) -> None:
    task = Tau2Task(domain, seed=1)
    trained = {task.train(i).key for i in range(counts[0])}
    held_out = {one.key for one in task.held_out(counts[1])}
    assert (len(trained), len(held_out), trained & held_out) == (*counts, set())
    roles = [message["role"] for message in task.train(0).prompt]
    assert roles == ["tools", "system", "user"]
    with pytest.raises(UserError, match=f"holds out {counts[1]} tasks"):
        task.held_out(counts[1] + 1)


@needs_library
@pytest.mark.parametrize(("domain", "numbers"), [("retail", ("0", "41", "72")), ("airline", ("0", "7"))])
def test_reference_actions_win_and_saying_nothing_of_what_is_asked_does_not(
    domain: str, numbers: Sequence[str]
) -> None:
    """72 changes an address, whose ``state`` is no state of the episode."""
    task = Tau2Task(domain)
    for number in numbers:
        example = task.example(tau2.by_number(domain)[number])
        replies = played(task, number, turns_of(example, "solution"))
        assert replies[-1].done
        assert (replies[-1].reward, replies[-1].numbers["database"]) == (1.0, 1.0)
        assert not any(one.done for one in replies[:-1])


@needs_library
def test_a_wrong_change_loses_and_an_episode_has_a_database_of_its_own() -> None:
    task = Tau2Task("retail")
    turns = turns_of(task.example(tau2.by_number("retail")["0"]), "solution")
    wrong = call("cancel_pending_order", order_id="#W4082615", reason="ordered by mistake")
    assert played(task, "0", [wrong, *turns])[-1].reward == 0
    assert played(task, "0", turns)[-1].reward == 1


@needs_library
def test_whatever_a_model_writes_is_answered_by_an_error_and_changes_nothing() -> None:
    task = Tau2Task("retail")
    turns = turns_of(task.example(tau2.by_number("retail")["0"]), "solution")
    hostile = [
        call("calculate", expression="9**9**9**9"),
        call("calculate", expression="().__class__"),
        call("calculate", expression="(" * 5000),
        call("get_order_details", order_id=7),
        call("get_order_details", order_id="#W0", more=1),
        call("delete_everything"),
        "<tool_call>{",
        call("get_order_details", order_id="x" * 100_000),
    ]
    replies = played(task, "0", [*hostile, *turns])
    told = [one.messages[0]["content"] for one in replies[: len(hostile)]]
    assert all(one.failed for one in replies[: len(hostile)])
    assert all(text.startswith("error: ") and len(text) < 9000 for text in told), told
    assert replies[-1].reward == 1


@needs_library
def test_an_example_of_another_task_is_refused() -> None:
    task = Tau2Task("retail")
    with pytest.raises(UserError, match="is none of tau2:airline"):
        Tau2Task("airline").environment().reset(task.held_out(1)[0])


@needs_library
@pytest.mark.parametrize("number", ["0", "41"])
def test_the_reward_is_what_the_librarys_own_evaluators_give(number: str) -> None:
    """Of the reference actions, of these without the last, of each twice, and of what has to be said left unsaid."""
    from tau2.data_model.message import AssistantMessage, ToolCall
    from tau2.evaluator.evaluator_communicate import CommunicateEvaluator
    from tau2.evaluator.evaluator_env import EnvironmentEvaluator

    task, library = Tau2Task("retail"), tau2.library("retail")
    theirs = tau2.by_number("retail")[number]
    *calls, last = turns_of(task.example(theirs), "solution")
    rewards = set()
    for made, said in ((calls, last), (calls[:-1], last), ([*calls, *calls], last), (calls, "Sorry.")):
        messages, replay = [], library.environment()
        for i, turn in enumerate(made):
            call = json.loads(turn[turn.index("{") : turn.rindex("}") + 1])
            asked = ToolCall(id=str(i), requestor="assistant", **call)
            messages += [
                AssistantMessage(role="assistant", tool_calls=[asked]),
                replay.get_response(asked),
            ]
        messages.append(AssistantMessage(role="assistant", content=said))
        ended = played(task, number, [*made, said])[-1]
        found = EnvironmentEvaluator.calculate_reward(lambda **_: library.environment(), theirs, messages)
        told = CommunicateEvaluator.calculate_reward(theirs, messages)
        assert ended.reward == found.reward * told.reward
        assert (ended.numbers["database"], ended.numbers["communicated"]) == (found.reward, told.reward)
        rewards.add(ended.reward)
    assert rewards == {0.0, 1.0}
