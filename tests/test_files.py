"""Problems from files, folders and the hub: what is read, how it is split, and what each bad input is told."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.task import reading
from selfteach.task.files import FileTask
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.rows import make_task
from selfteach.task.verdict import Verdict

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")

Row = Mapping[str, Any]
OPSD_COLUMNS = ("problem", "solution", "Answer", "COT_Reason", "correct")


def sum_row(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {i} + {i}?",
        "solution": f"It is \\boxed{{{2 * i}}}.",
        "answer": str(2 * i),
        **changes,
    }


def opsd_row(i: int) -> dict[str, Any]:
    return dict(zip(OPSD_COLUMNS, (*sum_row(i).values(), f"Well, {i} + {i} …", True), strict=True))


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_saved_dataset(path: Path, rows: list[Row]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def write_saved_splits(path: Path, rows: list[Row]) -> Path:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(path)
    return path


def write_folder(path: Path, rows: list[Row]) -> Path:
    (path / "data").mkdir(parents=True)
    write_parquet(path / "data" / "train-00000-of-00001.parquet", rows)
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
    "saved": write_saved_dataset,
    "splits": write_saved_splits,
    "folder": write_folder,
}


@pytest.fixture(autouse=True)
def caches_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def open_rows(tmp_path: Path, rows: list[Row], seed: int = 0, **options: Any) -> FileTask:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = open_task(str(path), seed=seed, options=TaskOptions(**options))
    assert isinstance(task, FileTask)
    return task


def refusal(tmp_path: Path, content: bytes | list[Row], **options: Any) -> str:
    path = tmp_path / "rows.jsonl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_jsonl(path, content)
    with pytest.raises(UserError) as error:
        open_task(str(path), options=TaskOptions(**options))
    message = str(error.value)
    assert "\n" not in message
    assert "rows.jsonl" in message
    return message


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_of_the_public_opsd_math_set_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / kind, [opsd_row(i) for i in range(40)])
    task = open_task(str(path))
    examples = [task.train(i) for i in range(3)]
    for example in examples:
        row = opsd_row(int(example.problem.split()[2]))
        assert example.private == {"solution": row["solution"], "answer": row["Answer"]}
        assert example.problem.startswith(row["problem"] + "\n\n")
        assert example.problem.endswith("\\boxed{}.")
        assert task.grade(example, f"Thus \\boxed{{{row['Answer']}.0}}").reward == 1.0
        assert task.grade(example, "Thus \\boxed{1}").reward == 0.0


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    rows: list[Row] = [sum_row(i) for i in range(40)]
    tasks = [open_task(str(write(tmp_path / kind, rows))) for kind, write in WRITERS.items()]
    first, *others = [[(e.prompt, e.private) for e in map(task.train, range(60))] for task in tasks]
    assert others == [first] * (len(WRITERS) - 1)


def test_key_names_file_and_row_but_no_folder(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(i) for i in range(3)], held_out_fraction=1e-9)
    assert {task.train(i).key for i in range(3)} == {"rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"}


def test_train_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    rows: list[Row] = [sum_row(i) for i in range(30)]
    forwards = [open_rows(tmp_path, rows).train(i) for i in range(90)]
    task = open_rows(tmp_path, rows)
    assert [task.train(i) for i in reversed(range(90))] == forwards[::-1]
    assert [open_rows(tmp_path, rows, seed=1).train(i) for i in range(90)] != forwards


def test_each_epoch_gives_every_row_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(i) for i in range(30)])
    size = len(task.rows)
    epochs = [[task.train(e * size + i).key for i in range(size)] for e in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_held_out_problems_are_never_trained_on(tmp_path: Path) -> None:
    rows: list[Row] = [sum_row(i) for i in range(200)]
    task = open_rows(tmp_path, rows + rows)  # every problem twice
    held_out = {e.problem for e in task.held_out(len(task.held_out_rows))}
    assert 20 <= len(held_out) <= 50  # a fifth of few
    assert held_out.isdisjoint({task.train(i).problem for i in range(len(task.rows))})


@pytest.mark.parametrize(
    ("before", "now"), [(40, 41), (40, 60), (40, 599), (100, 159), (600, 800), (700, 900)]
)
def test_held_out_problems_stay_held_out_when_the_file_grows_and_the_seed_changes(
    tmp_path: Path, before: int, now: int
) -> None:
    small = open_rows(tmp_path, [sum_row(i) for i in range(before)], seed=1)
    large = open_rows(tmp_path, [sum_row(i) for i in reversed(range(now))], seed=2)
    assert {r.problem for r in small.held_out_rows} <= {r.problem for r in large.held_out_rows}


def test_more_held_out_problems_than_there_are_give_all_of_them_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = open_rows(tmp_path, [sum_row(i) for i in range(100)])
    have = len(task.held_out_rows)
    assert len(task.held_out(have)) == have
    assert not caplog.text
    assert task.held_out(500) == task.held_out(501) == task.held_out(have)
    assert caplog.text.count("rows.jsonl: ") == caplog.text.count(f"{have} of 500 problems asked for") == 1


def test_asking_for_held_out_problems_where_none_is_held_out_is_refused(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(i) for i in range(3)], held_out_fraction=1e-9)
    assert task.held_out(0) == []
    with pytest.raises(UserError, match=r"rows\.jsonl: no problem is held out: raise held_out_fraction"):
        task.held_out(1)


@pytest.mark.parametrize("count", range(2, 42))
def test_a_few_rows_hold_out_at_least_one_problem_whatever_their_order(tmp_path: Path, count: int) -> None:
    rows: list[Row] = [sum_row(i) for i in range(count)]
    task, other = open_rows(tmp_path, rows + rows[:1]), open_rows(tmp_path, rows[::-1], seed=3)
    held_out = {r.problem for r in task.held_out_rows}
    assert 1 <= len(held_out) <= max(1, count // 4)
    assert held_out == {r.problem for r in other.held_out_rows}
    assert held_out.isdisjoint(r.problem for r in task.rows)
    assert len(task.held_out(128)) == len(held_out)


def test_the_only_problem_is_not_held_out(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(1), sum_row(1)])
    assert (len(task.rows), len(task.held_out_rows)) == (2, 0)


def test_a_number_that_is_none_is_a_missing_field(tmp_path: Path) -> None:
    message = refusal(tmp_path, [sum_row(1), sum_row(2, answer=float("nan"), solution="no box")])
    assert "rows.jsonl, row 2: field 'answer' is missing or empty" in message


def test_problems_of_the_held_out_file_are_taken_out_of_the_training_rows(tmp_path: Path) -> None:
    reworded = sum_row(5, problem="What   is 5 +\n5?")
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [sum_row(3), reworded, sum_row(99), sum_row(99)])
    task = open_rows(tmp_path, [sum_row(i) for i in range(10)], held_out_file=str(held_out))
    assert {r.private["answer"] for r in task.held_out_rows} == {"6", "10", "198"}
    assert {r.private["answer"] for r in task.rows} == {str(2 * i) for i in range(10) if i not in (3, 5)}
    assert task.describe()["rows dropped: problem is held out"] == 2


def test_absent_answer_is_the_last_box_of_the_solution_and_that_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Row] = [
        {"problem": f"p{i}", "solution": rf"First \boxed{{0}}, no: \boxed{{\frac{{{i}}}{{2}}}}."}
        for i in range(3)
    ]
    with caplog.at_level(logging.WARNING):
        task = open_rows(tmp_path, rows, held_out_fraction=1e-9)
    assert {r.private["answer"] for r in task.rows} == {rf"\frac{{{i}}}{{2}}" for i in range(3)}
    assert task.describe()["answers taken from the solution's last \\boxed{}"] == 3
    assert "last \\boxed{}: 3" in caplog.text


def test_numeric_answer_is_taken_as_its_digits(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(1, answer=2), sum_row(2, answer=4.5)], held_out_fraction=1e-9)
    assert [r.private["answer"] for r in task.rows] == ["2", "4.5"]


def test_row_may_order_and_omit_its_fields_as_it_likes(tmp_path: Path) -> None:
    first = {"solution": "\\boxed{7}", "problem": "p"}
    task = open_rows(tmp_path, [first, sum_row(1)], held_out_fraction=1e-9)
    assert [r.private["answer"] for r in task.rows] == ["7", "2"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows: list[Row] = [{"q": "one?", "proof": "s", "final": "1", "level": "easy", "hint": "look"}]
    task = open_rows(
        tmp_path,
        rows,
        problem_column="q",
        solution_column="proof",
        answer_column="final",
        tag_column="level",
        extra_columns=("hint",),
        held_out_fraction=1e-9,
        instruction=False,
    )
    example = task.train(0)
    assert (example.problem, example.tag) == ("one?", "easy")
    assert example.private == {"solution": "s", "answer": "1", "hint": "look"}


def test_data_without_solutions_is_read_when_asked_for(tmp_path: Path) -> None:
    rows: list[Row] = [{"problem": "p", "answer": "1"}]
    assert open_rows(tmp_path, rows, solution_column=None).train(0).private == {"answer": "1"}


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(sum_row(1)).encode() + b"\n\n" + json.dumps(sum_row(2)).encode()
    )
    task = open_task(str(path), options=TaskOptions(held_out_fraction=1e-9))
    assert {task.train(i).key for i in range(2)} == {"rows.jsonl:1", "rows.jsonl:3"}


def test_long_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    task = open_rows(
        tmp_path, [sum_row(1), sum_row(2, solution="x" * 500)], max_chars=100, held_out_fraction=1e-9
    )
    assert len(task.rows) == 1
    assert task.describe()["rows left out: longer than max_chars"] == 1


@pytest.mark.parametrize("field", ["problem", "solution", "answer"])
def test_a_cell_of_more_than_a_million_characters_is_refused_or_left_out(tmp_path: Path, field: str) -> None:
    rows = [sum_row(1), sum_row(2, **{field: "x" * 1_000_001})]
    with pytest.raises(
        UserError, match=rf"rows.jsonl, row 2, field '{field}': 1,000,001 characters, more than"
    ):
        open_rows(tmp_path, rows)
    with pytest.raises(UserError, match="row 2"):
        open_rows(tmp_path, rows, max_chars=1_000_001)
    task = open_rows(tmp_path, rows, max_chars=1_000_000, held_out_fraction=1e-9)
    assert len(task.rows) == 1
    assert task.counts["rows left out: longer than max_chars"] == 1
    open_rows(tmp_path, [sum_row(1), sum_row(2, **{field: "x" * 1_000_000})], held_out_fraction=1e-9)


def test_exact_verifier_compares_text(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(1)], verifier="exact")
    example = task.train(0)
    assert task.grade(example, r"\boxed{2}").reward == 1.0
    assert task.grade(example, r"\boxed{2.0}").reward == 0.0


def test_without_a_verifier_rewards_are_zero_and_answers_may_be_absent(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [{"problem": "p", "solution": "a poem"}], verifier="none")
    assert task.train(0).prompt == ({"role": "user", "content": "p"},)
    assert task.grade(task.train(0), "a poem").reward == 0.0
    assert not task.verdicts


def test_verdicts_are_counted(tmp_path: Path) -> None:
    task = open_rows(tmp_path, [sum_row(1)])
    for text in (r"\boxed{2}", r"\boxed{3}", "2", r"\boxed{\frac{1}}"):
        task.grade(task.train(0), text)
    hasty = replace(task, options=replace(task.options, grade_seconds=0.4))
    hasty.grade(task.train(0), r"\boxed{9^{9^{9^9}}}")
    unmet = {Verdict.REFERENCE_UNPARSEABLE, Verdict.NO_REWARD}
    assert task.verdicts == dict.fromkeys(set(Verdict) - unmet, 1)


def test_missing_field_names_file_row_and_field(tmp_path: Path) -> None:
    message = refusal(tmp_path, [sum_row(1), sum_row(2), {"problem": "p", "answer": "1"}])
    assert "rows.jsonl, row 3: field 'solution' is missing or empty" in message


@pytest.mark.parametrize("blank", [None, "", " \n"])
@pytest.mark.parametrize("field", ["problem", "solution"])
def test_empty_field_names_file_row_and_field(tmp_path: Path, field: str, blank: str | None) -> None:
    message = refusal(tmp_path, [sum_row(1), sum_row(2, **{field: blank})])
    assert f"rows.jsonl, row 2: field '{field}' is missing or empty" in message


def test_missing_answer_without_a_box_names_file_row_and_field(tmp_path: Path) -> None:
    message = refusal(tmp_path, [sum_row(1), sum_row(2, answer="", solution="no box")])
    assert (
        "rows.jsonl, row 2: field 'answer' is missing or empty and the solution has no \\boxed{}" in message
    )


def test_incomplete_rows_are_left_out_and_counted_when_asked_for(tmp_path: Path) -> None:
    rows: list[Row] = [{"problem": "p"}, sum_row(2), {"solution": "s"}]
    task = open_rows(tmp_path, rows, skip_incomplete_rows=True, held_out_fraction=1e-9)
    assert len(task.rows) == 1
    assert task.describe()["rows left out: a needed field is missing"] == 2


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("problem", 7, "int"),
        ("solution", ["a"], "list"),
        ("answer", {"a": 1}, "dict"),
        ("answer", True, "bool"),
    ],
)
def test_field_that_is_no_string_names_file_row_field_and_type(
    tmp_path: Path, field: str, value: Any, kind: str
) -> None:
    message = refusal(tmp_path, [sum_row(1), sum_row(2, **{field: value})])
    assert f"rows.jsonl, row 2, field '{field}': of type {kind}, not a string" in message


def test_unknown_column_lists_the_columns_and_the_option(tmp_path: Path) -> None:
    message = refusal(tmp_path, [{"exercise": "p", "solution": "s"}])
    assert "row 1: no field 'problem', it has 'exercise', 'solution'; set problem_column" in message


def test_column_that_fits_two_but_for_case_is_not_guessed(tmp_path: Path) -> None:
    assert "no field 'problem'" in refusal(tmp_path, [{"Problem": "p", "PROBLEM": "q", "solution": "s"}])


def test_file_that_is_not_utf8_names_file_row_and_byte(tmp_path: Path) -> None:
    first = json.dumps(sum_row(1)).encode() + b"\n"
    message = refusal(tmp_path, first + b'{"problem": "caf\xe9"}\n')
    assert f"rows.jsonl, row 2: byte {len(first) + 16} is not UTF-8" in message


def test_half_a_surrogate_pair_names_file_row_and_field(tmp_path: Path) -> None:
    assert "row 1, field 'problem': character 2 is half a surrogate" in refusal(
        tmp_path, b'{"problem": "ab\\ud800", "solution": "s"}'
    )


def test_line_that_is_not_json_names_file_and_row(tmp_path: Path) -> None:
    message = refusal(tmp_path, json.dumps(sum_row(1)).encode() + b"\n{'problem': 1}\n")
    assert "rows.jsonl, row 2: not valid JSON" in message


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"answer": ' + b"9" * 10_000 + b"}"])
def test_line_that_would_exhaust_the_parser_names_file_and_row(tmp_path: Path, line: bytes) -> None:
    assert "rows.jsonl, row 1: not usable JSON" in refusal(tmp_path, line)


def test_line_that_is_no_object_names_file_and_row(tmp_path: Path) -> None:
    assert "rows.jsonl, row 1: a list, not an object" in refusal(tmp_path, b"[1, 2]\n")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file_says_so(tmp_path: Path, content: bytes) -> None:
    message = refusal(tmp_path, content)
    assert "is empty" in message or "holds no rows" in message


def test_file_whose_rows_are_all_held_out_says_so(tmp_path: Path) -> None:
    held_out = write_jsonl(tmp_path / "held_out.jsonl", [sum_row(1)])
    assert "no training rows are left" in refusal(tmp_path, [sum_row(1)], held_out_file=str(held_out))


def test_missing_held_out_file_says_so(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [sum_row(1)])
    with pytest.raises(UserError, match=r"gone\.jsonl: there is no such file"):
        open_task(
            str(tmp_path / "rows.jsonl"), options=TaskOptions(held_out_file=str(tmp_path / "gone.jsonl"))
        )


def test_file_that_is_not_parquet_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"problem,solution\n")
    with pytest.raises(UserError, match=r"rows\.parquet: not a readable Parquet file"):
        open_task(str(path))


def test_parquet_row_without_a_needed_field_names_file_row_and_field(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "rows.parquet", [sum_row(i) for i in range(700)] + [sum_row(1, solution=None)]
    )
    with pytest.raises(UserError, match=r"rows\.parquet, row 701: field 'solution' is missing or empty"):
        open_task(str(path))


def test_parquet_text_that_is_not_utf8_names_file_row_and_field(tmp_path: Path) -> None:
    bad = pyarrow.array([b"fine", b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())
    good = pyarrow.array(["1", "2"])
    table = pyarrow.table({"problem": bad, "solution": good, "answer": good})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, row 2, field 'problem': not UTF-8"):
        open_task(str(tmp_path / "rows.parquet"))


def test_empty_dataset_says_so(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"problem": [], "solution": []}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved \(train\): the dataset holds no rows"):
        open_task(str(tmp_path / "saved"))


def test_unknown_split_names_the_splits(tmp_path: Path) -> None:
    path = write_saved_splits(tmp_path / "splits", [sum_row(1)])
    with pytest.raises(
        UserError, match=r"splits \(test\): cannot be loaded: there is no split 'test', only train"
    ):
        open_task(str(path), options=TaskOptions(split="test"))


def test_folder_without_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing \(train\): cannot be loaded"):
        open_task(str(tmp_path / "nothing"))


def test_folder_with_a_loading_script_does_not_run_it(tmp_path: Path) -> None:
    folder, trace = tmp_path / "scripted", tmp_path / "executed"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(trace)!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        open_task(str(folder))
    assert not trace.exists()


def test_hub_dataset_that_cannot_be_reached_says_so() -> None:
    code = (
        "from selfteach.errors import UserError\n"
        "from selfteach.task.opening import open_task\n"
        "try:\n"
        "    open_task('hf:nobody/nothing')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.stdout.startswith("hf:nobody/nothing (train): cannot be loaded: "), done.stderr
    assert done.stdout.count("\n") == 1


def test_missing_package_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [sum_row(1)])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"rows\.parquet: reading it needs the package pyarrow; pip install"):
        reading.open_file(path)


@pytest.mark.parametrize("kind", ["broken", "mixed", "cut", "not text"])
def test_a_bad_file_in_a_folder_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    rows = "\n".join(
        json.dumps({"problem": f"{i}+1", "solution": "s", "answer": str(i + 1)}) for i in range(40)
    )
    if kind == "broken":
        (tmp_path / "train.jsonl").write_text(rows + '\n{"problem": "x",')
    elif kind == "mixed":
        (tmp_path / "a.jsonl").write_text(rows)
        (tmp_path / "b.jsonl").write_text(json.dumps({"question": "q", "answer": [1]}))
    elif kind == "cut":
        (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-150])
    else:
        (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(UserError, match="cannot be loaded") as refused:
        open_task(str(tmp_path))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 800


def test_a_list_of_accepted_answers_is_several_where_exact_match_judges(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "golden_answers": ["Galileo", "Galileo Galilei"]} for i in range(8)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Galileo Galilei watched the moons of Jupiter.")
    task = make_task(rows, options=TaskOptions(corpus=str(corpus)))
    assert json.loads(task.train(0).private["answer"]) == ["Galileo", "Galileo Galilei"]
    with pytest.raises(UserError, match="'golden_answers': of type list, not a string"):
        make_task(rows)
    alone = make_task([{**row, "golden_answers": ["7"]} for row in rows])
    assert alone.train(0).private["answer"] == "7"
