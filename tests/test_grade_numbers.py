"""Several numbers of one answer: from a reward function to the row, the metrics, the evaluation and the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from selfteach import evaluate, train
from selfteach.errors import UserError
from selfteach.task.example import Example, Grade
from selfteach.task.judged import judged
from selfteach.task.reward import RewardFunction
from selfteach.task.trajectory import Trajectory
from selfteach.training.jsonrows import read_rows
from selfteach.training.text.columns import columns_of, facts_of
from selfteach.training.text.estimates import estimates, number_scores
from selfteach.training.text.evaluation import Answered, result

EXAMPLE = Example("k", ({"role": "user", "content": "?"},))


def graded(**numbers: float) -> Grade:
    return Grade(1.0, numbers=numbers)


def answered(**numbers: float) -> Answered:
    return Answered(EXAMPLE, [], [], "", True, graded(**numbers))


def rollout(grade: Grade | None, **numbers: float) -> Trajectory:
    return Trajectory.written(
        EXAMPLE, [1], [2], "", group=0, finished=True, behavior=[0.0], grade=grade, numbers=numbers
    )


def columns_from(*rows: Trajectory) -> Any:
    facts = [facts_of(one, i, 0, {}, []) for i, one in enumerate(rows)]
    return columns_of(facts, {}, torch.float64, torch.device("cpu"))


@pytest.mark.parametrize(
    "said", [graded(utility=1, leaks=0.25), {"score": 1, "numbers": {"utility": True, "leaks": 0.25}}]
)
def test_a_grade_and_a_dict_may_bring_numbers(said: Any) -> None:
    assert judged(said)[1].numbers == {"utility": 1.0, "leaks": 0.25}


def test_an_answer_without_reward_keeps_its_numbers() -> None:
    assert judged({"score": None, "numbers": {"leaks": 2}})[1].numbers == {"leaks": 2.0}


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([1.0], "numbers that are no dict"),
        ({"u": math.nan}, "as its number 'u' nan"), ({"u": "1"}, "as its number 'u' str '1'"),
        ({"u": None}, "NoneType"), ({3: 1.0}, "whose name is 3"), ({"a/b": 1.0}, "whose name is 'a/b'"),
        ({"": 1.0}, "whose name is ''"), ({"accuracy": 1.0}, "'accuracy', which is a metric's name"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_in_one_line(numbers: Any, shown: str) -> None:
    def score(completion: str) -> Any:
        return {"score": 1.0, "numbers": numbers}

    with pytest.raises(UserError) as refused:
        RewardFunction.of(score)(EXAMPLE, "x", "rows")
    assert shown in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_are_columns_of_the_rows_and_nan_where_a_grade_lacks_them() -> None:
    columns = columns_from(
        rollout(graded(utility=0.5, leaks=1)), rollout(graded(utility=0.25)), rollout(None)
    )
    torch.testing.assert_close(
        columns.numbers["utility"], torch.tensor([0.5, 0.25, math.nan], dtype=torch.float64), equal_nan=True
    )
    assert columns.numbers["leaks"].isnan().tolist() == [False, True, True]


def test_what_a_recipe_says_of_a_row_comes_before_what_the_grade_says() -> None:
    assert columns_from(rollout(graded(utility=0.5), utility=3.0)).numbers["utility"].tolist() == [3.0]


def test_numbers_outlive_json_and_a_grade_of_an_earlier_version_has_none() -> None:
    row = json.loads(json.dumps(rollout(graded(utility=0.1)).to_json()))
    again = Trajectory.from_json(row)
    assert again.grade is not None
    assert again.grade.numbers == {"utility": 0.1}
    del row["grade"]["numbers"]
    earlier = Trajectory.from_json(row)
    assert earlier.grade == again.grade
    assert earlier.grade is not None
    assert earlier.grade.numbers == {}


def test_an_evaluation_means_over_problems_the_answers_that_have_a_number() -> None:
    answers = [answered(c=1), answered(c=0), answered(c=0.75), answered(), answered(), answered()]
    assert number_scores(answers, 2) == {"c": [0.5, 0.75]}
    assert result(answers, 2).row()["eval/c"] == 0.625
    (found,) = [one for one in estimates(answers, 2) if one.measure == "c"]
    assert (found.value, found.problems) == (0.625, 2)


def test_a_run_writes_them_and_its_evaluation_comes_out_again(tmp_path: Path) -> None:
    def score(completion: str) -> Any:
        return {"score": 1.0, "numbers": {"digits": sum(c.isdigit() for c in completion)}}

    run = train(
        "grpo", task="table", reward=score, steps=1, prompts=2, per_prompt=2, max_tokens=4, eval_problems=3,
        eval_samples=2, out=tmp_path / "run", samples_every=1,
    )  # fmt: skip
    rows = list(read_rows(tmp_path / "run" / "metrics.jsonl"))
    trained = [row["grade/digits"] for row in rows if "grade/digits" in row]
    tested = [row["eval/digits"] for row in rows if "eval/digits" in row]
    assert trained and all(0 <= one <= 4 for one in trained)  # noqa: PT018
    again = evaluate(run, reward=score)
    assert again.result.numbers["digits"] == tested[-1]
    assert {"digits"} == {name for row in again.rows() for name in row["numbers"]}
    samples = list(read_rows(tmp_path / "run" / "samples.jsonl"))
    assert samples
    assert all(row["numbers"]["digits"] == sum(c.isdigit() for c in row["answer"]) for row in samples)
