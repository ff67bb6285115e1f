"""A dead reward is found before a run: references that cannot be read, that earn nothing, that accept anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task.arena import WORLDS
from selfteach.task.example import Example, Message, Task
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.references import check_references, perturbed, require_references
from selfteach.task.rows import make_task

ROWS = [{"problem": f"What is {i} + {i}?", "solution": "So.", "answer": str(2 * i)} for i in range(1, 31)]


def some(task: Task, count: int = 8) -> list[Example]:
    return [task.train(i) for i in range(count)]


def of(rows: Sequence[Mapping[str, Any]], reward: Any = None, **options: Any) -> Task:
    return make_task(list(rows), reward=reward, options=TaskOptions(**options))


def test_sound_references_are_fine() -> None:
    task = of(ROWS)
    report = check_references(task, some(task))
    assert report.fine
    assert not report.dead
    assert (report.examples, report.references, report.tried, report.readable_share) == (8, 8, 16, 1.0)
    assert report.sentences == ["rows: 8 of 8 reference answers, given as \\boxed{7}, earn the reward"]


def test_counts_of_verdicts_stay_as_they_were() -> None:
    task = of(ROWS)
    task.grade(task.train(0), "\\boxed{x}")
    before = Counter(task.verdicts)
    check_references(task, some(task))
    assert task.verdicts == before


def test_references_that_cannot_be_read_are_named() -> None:
    rows = [{**row, "answer": f"He has it.\n\\frac{{{row['answer']}"} for row in ROWS]
    task = of(rows)
    report = check_references(task, some(task))
    assert len(report.unreadable) == 8
    assert report.readable_share == 0
    assert report.dead
    assert not report.fine
    told = report.sentences[1]
    assert told.startswith("rows: 8 of 8 references cannot be read: rows:")
    assert told.endswith("choose verifier exact")
    assert "\n" not in told


def test_a_few_bad_references_are_no_reason_to_stop() -> None:
    task = of([{**row, "answer": "\\frac{1"} if i % 10 == 3 else row for i, row in enumerate(ROWS)])
    report = require_references(task, some(task, 25))
    assert 0 < len(report.unreadable) < 5
    assert not report.dead


def test_references_that_earn_nothing_are_dead() -> None:
    class Broken:
        name = "broken"
        answer_format = "boxed"

        def train(self, index: int) -> Example:
            return Example(f"e{index}", ({"role": "user", "content": "p"},), {"answer": str(index)})

        def held_out(self, count: int) -> list[Example]:
            return [self.train(1000 + i) for i in range(count)]

        def grade(self, example: Example, answer: str) -> float:
            return 0.0

    task = make_task(Broken())
    report = check_references(task, some(task))
    assert report.dead
    with pytest.raises(UserError, match="broken: 8 of 8 references earn nothing: e0"):
        require_references(task, some(task))


def test_a_verifier_that_accepts_anything_is_found() -> None:
    task = of(ROWS, reward=lambda completion, answer: 1.0)
    report = check_references(task, some(task))
    assert len(report.overpaid) == 8
    assert "accept a wrong answer" in report.sentences[1]


@pytest.mark.parametrize(
    "reward",
    [
        lambda completion, answer: float(completion.strip().endswith(answer)),
        lambda completion, answer: float(f"\\boxed{{{answer}}}" in completion),
        lambda completion, answer: float(f"<answer>{answer}</answer>" in completion),
    ],
)
def test_a_reward_function_may_look_for_any_form(reward: Any) -> None:
    task = of(ROWS, reward=reward)
    report = check_references(task, some(task))
    assert not report.unpaid


def test_a_reward_function_that_pays_no_reference_is_a_hint_and_no_error() -> None:
    task = of(ROWS, reward=lambda completion: float(len(completion) > 500))
    report = require_references(task, some(task))
    assert len(report.unpaid) == 8
    assert not report.dead
    assert "see what the reward looks for" in report.sentences[1]


def test_without_a_verifier_nothing_is_graded_and_that_is_said() -> None:
    task = of(ROWS, verifier="none")
    report = check_references(task, some(task))
    assert report.sentences == ["rows: nothing is graded (verifier none): every reward is 0"]
    assert not report.dead


def test_tasks_without_references_say_so() -> None:
    task = open_task("gym:rush_hour")
    report = check_references(task, some(task, 3))
    assert report.sentences == [
        "gym:rush_hour: no reference answers in 3 examples: the verifier alone says what is right"
    ]
    assert not report.dead


@pytest.mark.parametrize(
    "name", ["gym:chain_sum", "gym:sudoku", "gym:coin_flip", "gym:spell_backward", *sorted(WORLDS)]
)
def test_built_in_tasks_are_sound(name: str) -> None:
    task = open_task(name)
    report = check_references(task, some(task, 5))
    assert not report.unpaid, report.sentences
    assert not report.unreadable
    assert not report.dead


@pytest.mark.parametrize("verifier", ["math", "exact"])
@pytest.mark.parametrize(
    "answer",
    [
        "7",
        "9",
        "-3",
        "\\frac{1}{2}",
        "2\\sqrt{3}",
        "blue",
        "B",
        "(J)",
        "50\\%",
        "1,2",
        "(1,2)",
        "x",
        "10^{22}",
        "\\pi",
    ],
)
def test_a_changed_reference_is_wrong(answer: str, verifier: str) -> None:
    task = of([{"problem": "p", "solution": "s", "answer": answer}], verifier=verifier)
    report = check_references(task, [task.train(0)])
    assert report.fine, report.sentences
    assert report.tried == (perturbed(answer) is not None)


def test_one_question_alone_can_be_checked() -> None:
    task = of(ROWS, only=0)
    assert check_references(task, some(task, 2)).fine


class Guessing:
    """Episodes whose examples hold an ``answer``; as in a user's own environment, no ``grade``."""

    name, wording, verdicts = "guessing", dict[str, str](), dict[Any, int]()

    def environment(self) -> None:
        raise AssertionError("nothing is played")

    def train(self, index: int) -> Example:
        return Example(f"guessing/{index}", (Message(role="user", content="?"),), {"answer": str(index)})


def test_of_episodes_no_answer_is_graded_and_no_run_refused() -> None:
    task: Any = Guessing()
    for report in (check_references(task, some(task)), require_references(task, some(task))):
        assert (report.examples, report.references, report.tried) == (8, 8, 0)
        assert not report.graded
        assert not report.dead
        assert report.sentences == [
            "guessing: an environment rewards each turn, no answer is graded by itself"
        ]


def test_rows_that_are_searched_for_are_not_graded_by_the_verifier_that_they_have_not() -> None:
    root = Path(__file__).parents[1] / "examples" / "search"
    options = TaskOptions(corpus=str(root / "documents.jsonl"))
    task = open_task(str(root / "questions.jsonl"), options=options)
    assert check_references(task, some(task, 4)).episodes
