"""One word for what became of an answer: by what the check found, whether it ended, and never by its feedback."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from selfteach.task.arena import open_world
from selfteach.task.example import Example, Grade, Message
from selfteach.task.files import FileTask
from selfteach.task.judged import judged
from selfteach.task.options import TaskOptions
from selfteach.task.outcome import OUTCOMES, UNREAD, WHY, outcome, outcome_told, reference_of
from selfteach.task.rows import make_task
from selfteach.task.verdict import Verdict

ROWS = [{"problem": f"1 + {i}?", "answer": str(1 + i)} for i in range(8)]


def rows_task(**options: Any) -> FileTask:
    task = make_task(ROWS, options=TaskOptions(answer_format="boxed", **options))
    assert isinstance(task, FileTask)
    return task


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        (r"so \boxed{%s}", True, "right"),
        (r"so \boxed{%s}", False, "right"),
        (r"so \boxed{99}", True, "wrong"),
        (r"so \boxed{99} and on", False, "cut off"),
        ("so it is", True, "no answer"),
        ("so it", False, "cut off"),
        (r"so \boxed{\frac{\frac{}}}", True, "unparseable"),
    ],
)
def test_an_answer_has_one_outcome(text: str, finished: bool, expected: str) -> None:
    task = rows_task()
    example = task.train(0)
    written = text % example.private["answer"] if "%s" in text else text
    assert outcome(task.grade(example, written), finished) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("#060", "right"),
        ("#061", "wrong"),
        ("#06", "unparseable"),
        ("060", "no answer"),
        ("#1#060", "no answer"),
    ],
)
def test_the_worlds_tell_what_they_found(answer: str, expected: str) -> None:
    world = open_world("table")
    assert outcome(world.grade(world.example("0*0;6*1;1*0"), answer)) == expected


def test_what_no_answer_could_have_changed_comes_before_the_limit() -> None:
    ungraded = rows_task(verifier="none")
    grade = ungraded.grade(ungraded.train(0), r"\boxed{1}")
    assert (grade.reward, grade.claim) == (0.0, "1")
    assert outcome(grade, finished=False) == "no reward"
    assert outcome(Verdict.REFERENCE_UNPARSEABLE.grade("5"), finished=False) == "reference unparseable"
    assert outcome(Verdict.TIMED_OUT.grade("9^9^9")) == "timed out"
    assert outcome(None) == "ungraded"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (1.0, "right"),
        (0.4, "wrong"),
        (None, "no reward"),
        ({"score": 0, "feedback": "no final answer"}, "wrong"),
        (Grade(0.0, verdict="no answer"), "no answer"),
        (Grade(0.0, verdict="a word of their own"), "wrong"),
        (Grade(1.0, verdict="wrong"), "right"),
    ],
)
def test_a_users_own_verdict(said: Any, expected: str) -> None:
    assert outcome(judged(said)[1]) == expected


def test_grades_are_equal_by_what_they_earn_and_say() -> None:
    assert Grade(1.0, claim="7") == Grade(1.0, claim="7", verdict="right")


def test_a_grade_is_plain_json() -> None:
    held = asdict(Verdict.UNPARSEABLE.grade("{"))
    assert type(held["verdict"]) is str
    assert Grade(**json.loads(json.dumps(held))).verdict == "unparseable"


def test_each_outcome_has_a_sentence() -> None:
    assert set(WHY) == set(OUTCOMES)
    assert {str(one) for one in Verdict} <= set(OUTCOMES)


@pytest.mark.parametrize(
    ("private", "expected"),
    [
        ({"answer": "7", "solution": "3+4=7"}, "7"),
        ({"answer": "", "solution": "3+4=7"}, "3+4=7"),
        ({"tests": "assert"}, None),
    ],
)
def test_the_reference_is_what_it_is_compared_with(private: dict[str, str], expected: str | None) -> None:
    question = (Message(role="user", content="3+4?"),)
    assert reference_of(Example("a", question, private)) == expected


@pytest.mark.parametrize(
    ("told", "reward", "finished", "expected"),
    [
        ("timed out", 1.0, True, "timed out"),
        (None, 1.0, False, "right"),
        (None, 0.0, False, "cut off"),
        ("nonsense", 0.0, True, "wrong"),
        (["right"], float("nan"), True, "wrong"),
        (None, None, False, "ungraded"),
    ],
)
def test_a_row_tells_its_outcome_or_its_reward_does(
    told: object, reward: float | None, finished: bool, expected: str
) -> None:
    assert outcome_told(told, reward, finished) == expected


def test_what_nobody_could_read_are_verdicts_of_a_check() -> None:
    assert set(UNREAD) < {str(one) for one in Verdict}
