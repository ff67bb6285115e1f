"""Public layouts whose problem stands in several columns, and data without answers: read, graded and shown as they are.

Every row is invented here."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task.composed import COMPOSED, letter_of
from selfteach.task.files import FileTask
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.references import check_references
from selfteach.task.rows import make_task

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

Row = Mapping[str, Any]
TOWNS = ("Ard", "Bel", "Cim", "Dov")


def asked(i: int) -> str:
    return f"Which town has {i} bridges?"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


GRADED: dict[str, tuple[Callable[[int], Row], str, str]] = {
    "MMLU": (
        lambda i: {"question": asked(i), "subject": "towns", "choices": list(TOWNS), "answer": i % 4},
        f"{asked(1)}\n\nA. Ard\nB. Bel\nC. Cim\nD. Dov",
        "B",
    ),
    "MMLU-Pro": (
        lambda i: {
            "question_id": i, "question": asked(i), "options": list(TOWNS), "answer": "ABCD"[i % 4],
            "answer_index": i % 4, "cot_content": "", "category": "towns",
        },
        f"{asked(1)}\n\nA. Ard\nB. Bel\nC. Cim\nD. Dov",
        "B",
    ),
    "ARC": (
        lambda i: {
            "id": str(i), "question": asked(i), "choices": {"text": list(TOWNS), "label": ["1", "2", "3", "4"]},
            "answerKey": str(i % 4 + 1),
        },
        f"{asked(1)}\n\nA. Ard\nB. Bel\nC. Cim\nD. Dov",
        "B",
    ),
    "question with A, B, C, D": (
        lambda i: {"question": asked(i), **dict(zip("ABCD", TOWNS, strict=True)), "answer": "ABCD"[i % 4]},
        f"{asked(1)}\n\nA. Ard\nB. Bel\nC. Cim\nD. Dov",
        "B",
    ),
    "HellaSwag": (
        lambda i: {"ind": i, "ctx": f"{i} men walk up and", "endings": list(TOWNS), "label": str(i % 4)},
        "1 men walk up and\n\nA. Ard\nB. Bel\nC. Cim\nD. Dov",
        "B",
    ),
    "HotpotQA": (
        lambda i: {
            "id": str(i), "question": asked(i), "answer": TOWNS[i % 4], "type": "bridge", "level": "easy",
            "supporting_facts": {"title": ["Ard"], "sent_id": [0]},
            "context": {"title": ["Ard", "Bel"], "sentences": [["Old.", " Small."], ["New."]]},
        },
        f"Ard: Old. Small.\n\nBel: New.\n\n{asked(1)}",
        "Bel",
    ),
    "SQuAD": (
        lambda i: {
            "id": str(i), "title": "Towns", "context": "Towns have bridges.", "question": asked(i),
            "answers": {"text": [TOWNS[i % 4], "no town"], "answer_start": [0, 4]},
        },
        f"Towns have bridges.\n\n{asked(1)}",
        "Bel",
    ),
}  # fmt: skip
"""Name → rows, the problem of the second row, and its answer."""

WITHOUT_ANSWERS: dict[str, tuple[Callable[[int], Row], str]] = {
    "Alpaca": (lambda i: {"instruction": "Name it.", "input": f"Town {i}", "output": "Bel."}, "Name it.\n\nTown 1"),
    "Dolly": (
        lambda i: {"instruction": asked(i), "context": "", "response": "Bel.", "category": "open_qa"},
        asked(1),
    ),
    "OpenOrca": (
        lambda i: {"id": str(i), "system_prompt": "Be brief.", "question": asked(i), "response": "Bel."},
        asked(1),
    ),
    "prompt, completion and label": (
        lambda i: {"prompt": asked(i), "completion": "Bel.", "label": True},
        asked(1),
    ),
    "preference pairs": (lambda i: {"prompt": asked(i), "chosen": "Bel.", "rejected": "Ard."}, asked(1)),
    "preference pairs (conversational prompt)": (
        lambda i: {"prompt": [user(asked(i))], "chosen": [reply("Bel.")], "rejected": [reply("Ard.")]},
        asked(1),
    ),
    "preference pairs (text prompt, conversations)": (
        lambda i: {
            "prompt": asked(i), "prompt_id": str(i),
            "chosen": [user(asked(i)), reply("Bel.")], "rejected": [user(asked(i)), reply("Ard.")],
        },
        asked(1),
    ),
    "preference pairs in conversations": (
        lambda i: {"chosen": [user(asked(i)), reply("Bel.")], "rejected": [user(asked(i)), reply("Ard.")]},
        asked(1),
    ),
    "prompt and completion": (lambda i: {"prompt": asked(i), "completion": "Bel."}, asked(1)),
    "prompt and completion (conversational)": (
        lambda i: {"prompt": [user(asked(i))], "completion": [reply("Bel.")]},
        asked(1),
    ),
    "messages": (lambda i: {"messages": [user(asked(i)), reply("Bel.")]}, asked(1)),
    "conversation": (lambda i: {"conversation": [user(asked(i)), reply("Bel.")], "model": "m"}, asked(1)),
    "conversations": (
        lambda i: {
            "id": str(i),
            "conversations": [{"from": "human", "value": asked(i)}, {"from": "gpt", "value": "Bel."}],
        },
        asked(1),
    ),
    "question and response": (lambda i: {"question": asked(i), "response": "Bel."}, asked(1)),
    "prompts alone": (lambda i: {"prompt": asked(i), "id": str(i)}, asked(1)),
    "prompts alone (conversational)": (lambda i: {"prompt": [user(asked(i))]}, asked(1)),
}  # fmt: skip


def opened(tmp_path: Path, rows: list[Row], kind: str = "jsonl", **options: Any) -> FileTask:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = open_task(str(path), options=TaskOptions(**options))
    assert isinstance(task, FileTask)
    return task


def record(task: FileTask, problem: str) -> Any:
    return next(row for row in (*task.rows, *task.held_out_rows) if row.problem == problem)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", GRADED)
def test_a_composed_layout_is_read_and_its_references_earn(tmp_path: Path, name: str, kind: str) -> None:
    row, problem, answer = GRADED[name]
    task = opened(tmp_path, [row(i) for i in range(24)], kind)
    assert task.layout == name
    assert record(task, problem).private["answer"] == answer
    assert len(task.rows) + len(task.held_out_rows) == 24
    report = check_references(task, [task.train(i) for i in range(16)])
    assert report.graded
    assert report.fine, report.sentences
    assert report.tried > 0


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", WITHOUT_ANSWERS)
def test_data_without_answers_are_read_and_it_is_said_that_nothing_is_graded(
    tmp_path: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    row, problem = WITHOUT_ANSWERS[name]
    with caplog.at_level(logging.WARNING):
        task = opened(tmp_path, [row(i) for i in range(24)], kind)
    assert task.layout.startswith(name.partition(" (")[0])
    found = record(task, problem).private
    rejected = {"rejected": "Ard."} if name.startswith("preference pairs") else {}
    assert found == ({} if "alone" in name else {"solution": "Bel.", **rejected})
    assert caplog.text.count("no answers are found: nothing is graded") == 1
    report = check_references(task, [task.train(i) for i in range(4)])
    assert not report.graded
    assert task.train(0).prompt[-1]["content"].count("boxed") == 0


def test_every_composed_layout_is_tried() -> None:
    assert {one.name for one in COMPOSED} <= {*GRADED, *WITHOUT_ANSWERS}


def test_a_data_frame_of_numpy_cells_is_read(tmp_path: Path) -> None:
    for name in ("MMLU", "ARC", "HotpotQA", "SQuAD"):
        row, problem, answer = GRADED[name]
        opened(tmp_path, [row(i) for i in range(24)], "parquet")
        task = make_task(pandas.read_parquet(tmp_path / "rows.parquet"))
        assert record(task, problem).private["answer"] == answer  # type: ignore[arg-type]


def test_an_openorca_row_keeps_its_system_prompt(tmp_path: Path) -> None:
    task = opened(tmp_path, [WITHOUT_ANSWERS["OpenOrca"][0](i) for i in range(9)])
    assert [one["role"] for one in task.train(0).prompt] == ["system", "user"]


def test_a_completion_that_was_marked_as_bad_is_no_solution(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": asked(i), "completion": "Bel.", "label": i != 3} for i in range(9)]
    with pytest.raises(UserError, match=r"row 4: field 'solution' is missing or empty"):
        opened(tmp_path, rows)
    assert len(opened(tmp_path, rows, skip_incomplete_rows=True).rows) < 9


@pytest.mark.parametrize("labels", [(True, False), (1, 0), ("true", "False")], ids=str)
@pytest.mark.parametrize("talk", [False, True])
def test_unpaired_preferences_keep_completions_of_either_label(
    tmp_path: Path, labels: tuple[Any, Any], talk: bool
) -> None:
    rows: list[Row] = [
        {
            "prompt": [user(asked(i))] if talk else asked(i),
            "completion": [reply("Bel.")] if talk else "Bel.",
            "label": labels[i == 3],
        }
        for i in range(9)
    ]
    task = opened(tmp_path, rows, unpaired=True)
    assert record(task, asked(1)).private == {"completion": "Bel.", "label": "true"}
    assert record(task, asked(3)).private == {"completion": "Bel.", "label": "false"}
    assert not task.graded
    with pytest.raises(UserError, match=r"row 4: .*for kto: --unpaired"):
        opened(
            tmp_path,
            rows if labels == (True, False) else [{**one, "label": i != 3} for i, one in enumerate(rows)],
        )


def test_unpaired_preferences_want_their_columns_and_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unpaired is set, which reads columns prompt, completion and label"):
        opened(
            tmp_path,
            [{"prompt": asked(i), "chosen": "Bel.", "rejected": "Ard."} for i in range(9)],
            unpaired=True,
        )
    rows: list[Row] = [{"prompt": asked(i), "completion": "Bel.", "label": "good"} for i in range(9)]
    with pytest.raises(UserError, match=r"row 1: .*label is 'good', neither true nor false"):
        opened(tmp_path, rows, unpaired=True)


@pytest.mark.parametrize(
    "row",
    [
        lambda i: {"prompt": asked(i), "chosen": "Bel.", "rejected": "Ard."},
        lambda i: {"prompt": [user(asked(i))], "chosen": [reply("Bel.")], "rejected": [reply("Ard.")]},
        lambda i: {"chosen": [user(asked(i)), reply("Bel.")], "rejected": [user(asked(i)), reply("Ard.")]},
    ],
)
def test_the_rejected_answer_of_a_preference_is_a_private_field(tmp_path: Path, row: Any) -> None:
    task = opened(tmp_path, [row(i) for i in range(9)])
    assert record(task, asked(1)).private == {"solution": "Bel.", "rejected": "Ard."}


def test_answers_in_some_solutions_are_wanted_in_all(tmp_path: Path) -> None:
    rows: list[Row] = [{"instruction": asked(i), "output": "\\boxed{Bel}" if i else "Bel"} for i in range(9)]
    with pytest.raises(UserError, match="row 1: field 'answer' is missing or empty"):
        opened(tmp_path, rows)


def test_an_option_that_names_a_column_wins(tmp_path: Path) -> None:
    row = GRADED["MMLU"][0]
    task = opened(
        tmp_path, [row(i) for i in range(9)],
        problem_column="question", solution_column=None, answer_column="subject",
    )  # fmt: skip
    assert record(task, asked(1)).private == {"answer": "towns"}


def test_a_row_that_does_not_fit_its_layout_is_named(tmp_path: Path) -> None:
    rows = [GRADED["MMLU"][0](i) for i in range(30)]
    rows[24] = {**rows[24], "choices": None}
    with pytest.raises(UserError, match=r"row 25: not as MMLU has it"):
        opened(tmp_path, rows)
    rows[24] = {**GRADED["MMLU"][0](24), "answer": 7}
    with pytest.raises(UserError, match=r"row 25: field 'answer' is missing or empty"):
        opened(tmp_path, rows)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (0, "A"),
        (3, "D"),
        (4, None),
        (-1, None),
        ("C", "C"),
        ("2", "C"),
        ("Dov", "D"),
        ("", None),
        (None, None),
        (True, None),
    ],
)
def test_the_letter_of_an_answer(answer: Any, letter: str | None) -> None:
    assert letter_of(answer, list(TOWNS)) == letter


def test_prompts_beside_a_column_that_is_not_known_are_not_taken_for_prompts_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field 'problem', it has 'prompt', 'target'"):
        opened(tmp_path, [{"prompt": asked(i), "target": "Bel"} for i in range(9)])


def test_a_reasoning_gym_export_is_read(tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "question": f"What is {i} + {i}?",
            "answer": str(2 * i),
            "metadata": {"source_dataset": "chain_sum", "n": i},
        }
        for i in range(24)
    ]
    task = opened(tmp_path, rows)
    assert check_references(task, [task.train(i) for i in range(16)]).fine
