"""A gymnasium environment runs as it is: seeds, words, rewards, ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task.environment import Reply
from selfteach.task.example import Message
from selfteach.task.gymnasium_task import GymnasiumTask
from selfteach.task.rows import make_task

pytest.importorskip("gymnasium")
LAKE = str(Path(__file__).parents[1] / "examples" / "frozen_lake.py") + ":make"


def said(words: str) -> Message:
    return Message(role="assistant", content=words)


@pytest.fixture(scope="module")
def lake() -> Any:
    return make_task(LAKE, seed=0)


def test_the_experts_turns_solve_every_lake(lake: Any) -> None:
    examples = [*(lake.train(i) for i in range(20)), *lake.held_out(20)]
    assert len({one.key for one in examples}) == 40
    for one in examples:
        environment = lake.environment()
        assert tuple(environment.reset(one)) == one.prompt
        replies = [environment.step(said(turn)) for turn in json.loads(one.private["solution"])]
        assert [reply.done for reply in replies] == [False] * (len(replies) - 1) + [True]
        assert sum(reply.reward for reply in replies) == 1


def test_other_seeds_train_on_other_episodes_and_hold_out_the_same() -> None:
    one, other = make_task(LAKE, seed=0), make_task(LAKE, seed=1)
    assert one.train(0).key != other.train(0).key
    assert one.held_out(3) == other.held_out(3)


@pytest.mark.parametrize(
    ("turn", "read"),
    [("right", "right"), ("Go LEFT, no: down!", "down"), ("upright", None), ("", None), ("north", None)],
)
def test_the_last_word_named_counts(lake: Any, turn: str, read: str | None) -> None:
    environment = lake.environment()
    environment.reset(lake.train(0))
    reply: Reply = environment.step(said(turn))
    assert reply.failed == (read is None)
    if read is None:
        assert reply.messages[0]["content"] == "Say one of: left, down, right, up."
        assert not reply.done
        return
    other = lake.environment()
    other.reset(lake.train(0))
    assert other.step(said(read)) == reply


def test_a_function_may_read_actions(lake: Any) -> None:
    def read(text: str) -> int:
        if not text.isdigit():
            raise ValueError("a number!")
        return int(text)

    task = GymnasiumTask(lake.make, read, describe=lambda field, info: f"field {field}")
    environment = task.environment()
    environment.reset(task.train(0))
    assert environment.step(said("one")).messages == (Message(role="user", content="a number!"),)
    assert not environment.step(said("1")).failed


def test_of_words_that_begin_alike_the_longer_is_read(lake: Any) -> None:
    task = GymnasiumTask(lake.make, {"go": 1, "go left": 2})
    assert task.action_in("I Go Left") == 2
    assert task.action_in("go") == 1


def test_a_task_without_actions_is_refused(lake: Any) -> None:
    with pytest.raises(UserError, match="actions is empty"):
        GymnasiumTask(lake.make, {})


@pytest.mark.parametrize("actions", [{1: 1}, {"": 0}])
def test_actions_are_called_by_words(lake: Any, actions: Any) -> None:
    with pytest.raises(UserError, match="actions are called by words"):
        GymnasiumTask(lake.make, actions)


def test_what_is_told_is_a_text(lake: Any) -> None:
    task = GymnasiumTask(lake.make, {"go": 1}, describe=lambda field, info: 5)  # type: ignore[arg-type, return-value]
    with pytest.raises(UserError, match="describe gave int 5: give a text"):
        task.train(0)


def test_an_experts_turns_are_words(lake: Any) -> None:
    task = GymnasiumTask(lake.make, {"go": 1}, expert=lambda environment: [1, 2])  # type: ignore[arg-type, list-item]
    with pytest.raises(UserError, match=r"expert gave \[1, 2\]: give the words"):
        task.train(0)
