"""What teachers are shown."""

from __future__ import annotations

import pytest

from selfteach.roles.view import Answer, Plain, Prefix, Solution, revealed
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory


def rollout(**private: str) -> Trajectory:
    prompt = (Message(role="system", content="Be brief."), Message(role="user", content="2+2?"))
    return Trajectory.written(Example("k", prompt, private), [1], [2], "4", group=0, finished=True)


def test_a_solution_view_rewords_the_last_user_message_and_keeps_the_rest() -> None:
    one = rollout(solution="two and two make four")
    messages = Solution()(one, [one], {})
    assert messages is not None
    assert messages[0] == one.example.prompt[0]
    assert "2+2?" in messages[-1]["content"]
    assert "two and two make four" in messages[-1]["content"]
    assert len(messages) == 2


def test_a_missing_or_empty_private_field_leaves_nothing_to_show() -> None:
    for one in (rollout(), rollout(solution=""), rollout(answer="4")):
        assert Solution()(one, [one], {}) is None
    one = rollout(answer="4")
    assert Answer()(one, [one], {}) is not None


def test_a_tasks_own_wording_replaces_the_default() -> None:
    one = rollout(solution="4")
    messages = Solution()(one, [one], {"solution": "{problem}|{solution}"})
    assert messages is not None
    assert messages[-1]["content"] == "2+2?|4"


def test_braces_in_data_are_left_alone() -> None:
    example = Example("k", (Message(role="user", content="{solution} {x}"),), {"solution": "{problem}{0}"})
    messages = revealed(example, "{problem} / {solution}")
    assert messages is not None
    assert messages[-1]["content"] == "{solution} {x} / {problem}{0}"


def test_a_prefix_stands_before_the_whole_conversation() -> None:
    turns = (Message(role="user", content="1+1?"), Message(role="assistant", content="2"))
    one = rollout()
    assert Prefix(turns)(one, [one], {}) == (*turns, *one.example.prompt)


def test_the_plain_view_is_what_the_student_saw() -> None:
    one = rollout(solution="4")
    assert Plain()(one, [one], {}) == one.example.prompt


@pytest.mark.parametrize("view", [Solution(), Answer()])
def test_a_view_names_the_fields_it_reveals(view: Solution | Answer) -> None:
    assert all(f"{{{name}}}" in view.template for name in view.fields)
