"""Public data sets are read as they are: for each layout a few rows as they are published, without any option."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task.files import FileTask
from selfteach.task.layouts import LAYOUTS
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.rows import make_task
from selfteach.task.verdict import Verdict

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

Row = Mapping[str, Any]
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
GSM8K = 'Let\'s think step by step and output the final answer after "####".'


def question(i: int) -> str:
    return f"What is {i} + {i}?"


def worked(i: int) -> str:
    return f"It is {i} + {i} = \\boxed{{{2 * i}}}."


def gsm8k(i: int) -> str:
    return f"It is {i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}"


def chat(i: int, roles: tuple[str, str, str], keys: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {keys[0]: role, keys[1]: text}
        for role, text in zip(roles, ("Think.", question(i), worked(i)), strict=True)
    ]


def verl(i: int, source: str, prompt: str, extra: dict[str, Any]) -> Row:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "math",
        "reward_model": {"ground_truth": str(2 * i), "style": "rule"},
        "extra_info": {"index": i, **extra},
    }


PUBLISHED: dict[str, Any] = {
    "GSM8K": lambda i: {"question": question(i), "answer": gsm8k(i)},
    "MATH": lambda i: {
        "problem": question(i),
        "level": "Level 1",
        "type": "Algebra",
        "solution": worked(i),
    },
    "MATH-500": lambda i: {
        "problem": question(i),
        "solution": worked(i),
        "answer": str(2 * i),
        "subject": "Algebra",
        "level": 1,
        "unique_id": f"test/algebra/{i}.json",
    },
    "NuminaMath-CoT": lambda i: {
        "source": "cn_k12",
        "problem": question(i),
        "solution": worked(i),
        "messages": chat(i, ("system", "user", "assistant"), ("role", "content"))[1:],
    },
    "OpenThoughts (OPSD)": lambda i: {
        "problem": question(i),
        "solution": worked(i),
        "Answer": str(2 * i),
        "COT_Reason": "Well …",
        "correct": True,
    },
    "OpenThoughts-114k": lambda i: {
        "system": "Think first.",
        "conversations": chat(i, ("system", "human", "gpt"), ("from", "value"))[1:],
    },
    "OpenThoughts-114k metadata": lambda i: {
        "problem": question(i),
        "deepseek_reasoning": "…",
        "deepseek_solution": worked(i),
        "ground_truth_solution": None,
        "domain": "math",
    },
    "messages": lambda i: {"messages": chat(i, ("system", "user", "assistant"), ("role", "content"))},
    "DAPO-Math": lambda i: verl(i, "math_dapo", DAPO.format(question(i)), {}),
    "verl GSM8K": lambda i: verl(
        i,
        "openai/gsm8k",
        f"{question(i)} {GSM8K}",
        {"split": "train", "answer": gsm8k(i), "question": question(i)},
    ),
    "verl MATH": lambda i: verl(
        i,
        "DigitalLearningGmbH/MATH-lighteval",
        f"{question(i)} Let's think step by step and output the final answer within \\boxed{{}}.",
        {"split": "train"},
    ),
    "AIME 2024 (capitals, numbers)": lambda i: {
        "ID": f"2024-I-{i}",
        "Problem": question(i),
        "Solution": f"It is {2 * i}.",
        "Answer": 2 * i,
    },
    "AIME 2025": lambda i: {"problem": question(i), "answer": str(2 * i), "id": str(i)},
    "AIME 2025 (question)": lambda i: {"question": question(i), "answer": str(2 * i)},
    "OpenMathInstruct-2": lambda i: {
        "problem": question(i),
        "generated_solution": worked(i),
        "expected_answer": str(2 * i),
        "problem_source": "math",
    },
    "MetaMathQA": lambda i: {
        "type": "GSM_Rephrased",
        "query": question(i),
        "original_question": question(i),
        "response": f"It is {2 * i}.\n#### {2 * i}\nThe answer is: {2 * i}",
    },
    "DeepMath": lambda i: {
        "question": question(i),
        "final_answer": str(2 * i),
        "difficulty": 3.5,
        "topic": "Algebra",
        "r1_solution_1": worked(i),
    },
    "TRL prompt and completion": lambda i: {"prompt": question(i), "completion": worked(i)},
    "TRL conversational prompts": lambda i: {
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": question(i)}],
        "answer": str(2 * i),
    },
}
WITHOUT_SOLUTION = {
    "DAPO-Math",
    "verl MATH",
    "AIME 2025",
    "AIME 2025 (question)",
    "TRL conversational prompts",
}
WITH_SYSTEM = {"messages", "TRL conversational prompts"}
FORMS = {
    "DAPO-Math": "So.\nAnswer: {}",
    "verl GSM8K": "So.\n#### {}",
}


def opened(tmp_path: Path, rows: Sequence[Row], kind: str = "jsonl", **options: Any) -> FileTask:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = open_task(str(path), options=TaskOptions(**options))
    assert isinstance(task, FileTask)
    return task


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layout_needs_no_option(tmp_path: Path, name: str, kind: str) -> None:
    task = opened(tmp_path, [PUBLISHED[name](i) for i in range(1, 31)], kind)
    assert task.describe()["answer types"] in ({"number": len(task.rows)}, "number")
    for index in range(3):
        example = task.train(index)
        i = int(example.problem.split("What is ")[1].split()[0])
        assert example.private["answer"] == str(2 * i)
        assert ("solution" in example.private) == (name not in WITHOUT_SOLUTION)
        assert (example.prompt[0]["role"] == "system") == (name in WITH_SYSTEM)
        form = FORMS.get(name, "So \\boxed{{{}}}.")
        assert task.grade(example, form.format(2 * i)).reward == 1.0
        assert task.grade(example, form.format(2 * i + 1)).reward == 0.0
    assert task.verdicts == {Verdict.RIGHT: 3, Verdict.WRONG: 3}


def test_every_layout_of_the_table_is_tried(tmp_path: Path) -> None:
    found = {opened(tmp_path, [row(i) for i in range(5)]).layout.split(" (")[0] for row in PUBLISHED.values()}
    others = {
        "question and solution",
        "problem and expected answer",
        "question and golden answers",
        "prompt and solution",
        "prompt and ground truth",
        # test_composed_layouts.py:
        "preference pairs",
        "preference pairs in conversations",
        "conversation",
        "question and response",
        "prompts alone",
        "logged interactions",
    }
    assert found | others == {layout.name for layout in LAYOUTS}


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"question": "1 + 1?", "solution": "\\boxed{2}"}, "question and solution"),
        ({"problem": "1 + 1?", "expected_answer": "2"}, "problem and expected answer"),
        ({"question": "1 + 1?", "golden_answers": ["2"]}, "question and golden answers"),
        ({"prompt": "1 + 1?", "solution": "\\boxed{2}"}, "prompt and solution"),
        ({"prompt": "1 + 1?", "ground_truth": "2"}, "prompt and ground truth"),
    ],
)
def test_simple_layouts_are_read(tmp_path: Path, row: Row, layout: str) -> None:
    task = opened(tmp_path, [row])
    assert task.layout.startswith(layout)
    assert task.train(0).private["answer"] == "2"


@pytest.mark.parametrize(
    "problem",
    [
        {"prompt": "Hi?"}, {"problem": "Hi?"}, {"question": "Hi?"}, {"messages": [{"role": "user", "content": "Hi?"}]},
        {"prompt": [{"role": "user", "content": "Hi?"}]},
    ],
    ids=repr,
)  # fmt: skip
def test_logged_interactions_need_no_answer_and_bring_what_was_said(tmp_path: Path, problem: Row) -> None:
    task = opened(tmp_path, [{**problem, "response": "Hello.", "followup": "Shorter!"}] * 3)
    assert task.layout.startswith("logged interactions")
    example = task.train(0)
    assert example.problem == "Hi?"
    assert example.private["response"] == "Hello."
    assert example.private["followup"] == "Shorter!"
    assert "answer" not in example.private


def test_what_was_recognized_is_said_once_and_described(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        task = opened(tmp_path, [PUBLISHED["GSM8K"](i) for i in range(9)])
    said = "GSM8K (problem = question, solution = answer)"
    assert caplog.text.count(said) == 1
    assert task.describe()["columns"] == said
    assert task.describe()["answers taken from behind ####"] == 9


def test_the_default_layout_is_not_talked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = opened(tmp_path, [PUBLISHED["MATH-500"](i) for i in range(9)])
    assert "columns" not in caplog.text
    assert (
        task.describe()["columns"]
        == "problem and solution (problem = problem, solution = solution, answer = answer)"
    )


def test_options_win_over_the_layout(tmp_path: Path) -> None:
    rows = [{**PUBLISHED["GSM8K"](i), "key": str(i), "proof": "So."} for i in range(5)]
    private = opened(tmp_path, rows, answer_column="key", solution_column="proof").train(0).private
    assert private["solution"] == "So."
    assert int(private["answer"]) < 5
    bare = opened(tmp_path, rows, problem_column="question", solution_column=None).train(0).private
    assert set(bare) == {"answer"}
    assert "####" not in bare["answer"]


def test_a_field_of_a_cell_can_be_named(tmp_path: Path) -> None:
    rows = [{"info": {"text": question(i), "key": str(2 * i)}} for i in range(1, 5)]
    task = opened(tmp_path, rows, problem_column="info.text", answer_column="info.key", solution_column=None)
    assert task.train(0).problem.startswith("What is ")


def test_question_and_answer_without_hashes_are_no_worked_answers(tmp_path: Path) -> None:
    rows = [{"question": question(i), "answer": str(2 * i)} for i in range(1, 5)]
    assert set(opened(tmp_path, rows).train(0).private) == {"answer"}


@pytest.mark.parametrize(
    ("name", "asks"), [("DAPO-Math", "line"), ("verl GSM8K", "hashes"), ("verl MATH", "boxed")]
)
def test_a_prompt_that_asks_for_a_form_is_not_asked_twice(tmp_path: Path, name: str, asks: str) -> None:
    rows = [PUBLISHED[name](i) for i in range(5)]
    task = opened(tmp_path, rows)
    assert task.answer_format == task.describe()["answer format"] == asks
    assert task.train(0).problem in {row["prompt"][0]["content"] for row in rows}
    own = opened(tmp_path, rows, answer_format="tags")
    assert own.train(0).problem.endswith("</answer>.")


def test_the_conversation_ahead_of_the_problem_is_kept(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "\\boxed{2}"},
    ]
    example = opened(tmp_path, [{"messages": turns}], instruction=False).train(0)
    assert list(example.prompt) == turns[:4]
    assert example.private == {"solution": "\\boxed{2}", "answer": "2"}
    other = opened(tmp_path, [{"messages": turns}], instruction=False, system_prompt="T").train(0)
    assert list(other.prompt) == [{"role": "system", "content": "T"}, *turns[1:4]]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "system", "content": "S"}], "field 'messages' has no message of a user"),
        ([{"role": "user", "content": "p"}], "field 'messages' ends in no message of an assistant"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has no text"),
        ([{"role": "user", "content": None}], "message 1 has no text"),
        ([], "of type list, not a string"),
    ],
)
def test_conversation_that_cannot_be_used_names_row_and_field(
    tmp_path: Path, messages: list[Any], said: str
) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl, row 2") as error:
        opened(tmp_path, [PUBLISHED["messages"](1), {"messages": messages}])
    assert said in str(error.value)


def test_content_in_parts_is_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]
    rows = [{"prompt": [{"role": "user", "content": parts}], "answer": "2"}]
    assert opened(tmp_path, rows, instruction=False).train(0).problem == "1 + 1?"


def test_a_data_frame_of_verls_parquet_is_read(tmp_path: Path) -> None:
    opened(tmp_path, [PUBLISHED["verl GSM8K"](i) for i in range(9)], "parquet")
    task = make_task(pandas.read_parquet(tmp_path / "rows.parquet"))
    assert task.train(0).private["answer"].isdigit()


def test_verls_reward_function_gets_its_extra_info_as_a_dict(tmp_path: Path) -> None:
    seen: list[tuple[str, str, Any]] = []

    def compute_score(
        data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None
    ) -> float:
        seen.append((data_source, ground_truth, extra_info["index"]))
        return 1.0

    task = make_task([PUBLISHED["DAPO-Math"](i) for i in range(1, 5)], reward=compute_score)
    task.grade(task.train(0), "7")
    (source, truth, index), *_ = seen
    assert (source, truth) == ("math_dapo", str(2 * index))


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "answer", "right"),
    [
        ("0.00005", "0.00005", ["0.00005", "5e-5", "5\\times 10^{-5}", "\\frac{1}{20000}"]),
        ("5e-05", "0.00005", ["0.00005"]),
        ("1e-7", "0.0000001", ["0.0000001", "10^{-7}"]),
        ("1e22", "1" + "0" * 22, ["10^{22}", "1" + "0" * 22]),
        ("1e+22", "1" + "0" * 22, ["10^{22}"]),
        ("1e400", "1e400", ["10^{400}", "1e400"]),
        ("0.1", "0.1", ["0.1", "\\frac{1}{10}"]),
        ("0.30000000000000004", "0.30000000000000004", ["0.30000000000000004"]),
        ("42.0", "42.0", ["42", "42.0"]),
        ("4.50", "4.50", ["4.5", "\\frac92"]),
        ("-3", "-3", ["-3", "–3"]),
        ("12345678901234567890123", "12345678901234567890123", ["12345678901234567890123"]),
    ],
)
def test_a_json_number_is_kept_as_it_is_written(
    tmp_path: Path, written: str, answer: str, right: list[str]
) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text(f'{{"problem": "p", "solution": "s", "answer": {written}}}\n')
    task = open_task(str(path))
    one = task.train(0)
    assert one.private["answer"] == answer
    assert [r for r in right if task.grade(one, f"\\boxed{{{r}}}").reward != 1] == []
    assert task.grade(one, "\\boxed{7.5}").reward == 0


@pytest.mark.parametrize("missing", ["NaN", "Infinity", "-Infinity", "null", '" "'])
def test_what_is_no_number_is_a_missing_value(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text(
        f'{{"problem": "p", "solution": "\\\\boxed{{3}}", "answer": {missing}}}\n'
        '{"problem": "q", "solution": "s", "answer": 1}\n'
    )
    task = open_task(str(path), options=TaskOptions(held_out_fraction=1e-9))
    assert isinstance(task, FileTask)
    assert {row.private["answer"] for row in task.rows} == {"3", "1"}


def test_numbers_are_the_same_under_exact_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text('{"problem": "p", "solution": "s", "answer": 42.0}\n')
    task = open_task(str(path), options=TaskOptions(verifier="exact"))
    rewards = [
        task.grade(task.train(0), f"\\boxed{{{r}}}").reward for r in ("42", "42.0", "042", "42.1", "4 2", "x")
    ]
    assert rewards == [1, 1, 1, 0, 0, 0]


def test_text_that_looks_like_a_number_is_text_under_exact(tmp_path: Path) -> None:
    task = opened(tmp_path, [{"problem": "p", "solution": "s", "answer": "1.10"}], verifier="exact")
    assert task.grade(task.train(0), "\\boxed{1.1}").reward == 0


def test_float_elsewhere_is_called_a_float(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="field 'problem': of type float, not a string"):
        opened(tmp_path, [{"problem": 1.5, "solution": "s", "answer": "1"}])


def test_numbers_of_a_data_frame_and_of_parquet_are_written_out(tmp_path: Path) -> None:
    rows: list[Row] = [{"problem": f"p{i}", "solution": "s", "answer": i * 1e-6} for i in (5, 7)]
    task = make_task(pandas.DataFrame(rows), options=TaskOptions(held_out_fraction=1e-9))
    assert {task.train(i).private["answer"] for i in range(2)} <= {
        "0.000005",
        "0.000007",
        "0.0000049999999999999996",
    }
    other = opened(tmp_path, rows, "parquet", held_out_fraction=1e-9)
    assert all("e" not in other.train(i).private["answer"] for i in range(2))


def test_a_named_type_reaches_the_verifier(tmp_path: Path) -> None:
    rows: list[Row] = [{"problem": "p", "solution": "s", "answer": "1,2,3"}]
    ordered = opened(tmp_path, rows, answer_type="tuple")
    assert ordered.grade(ordered.train(0), "\\boxed{3,2,1}").reward == 0
    assert ordered.describe()["answer types"] == "tuple"
    free = opened(tmp_path, rows)
    assert free.grade(free.train(0), "\\boxed{3,2,1}").reward == 1
    assert free.describe()["answer types"] == {"set": 1}
