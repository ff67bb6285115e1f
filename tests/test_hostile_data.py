"""Data files as nobody should write them: rows, or one line that says which file and row."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hostile import mutated
from selfteach.errors import UserError
from selfteach.task.files import FileTask
from selfteach.task.opening import TaskOptions, open_task
from selfteach.task.reading import ENDINGS, open_file

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"problem": f"{i} + {i}, how much?", "solution": f"\\boxed{{{2 * i}}}", "answer": f"{2 * i}"}
    for i in range(60)
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def opened(path: Path, **options: Any) -> FileTask:
    task = open_task(str(path), options=TaskOptions(**options))
    assert isinstance(task, FileTask)
    return task


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as refusal:
        opened(path, **options)
    said = str(refusal.value)
    assert len(said.splitlines()) == 1
    assert path.name in said, said
    return said


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_form_gives_the_same_problems(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"sums{ending}"
    WRITERS[ending](path, ROWS)
    task = opened(path)
    found = {row.problem: row.private for row in (*task.rows, *task.held_out_rows)}
    assert found == {row["problem"]: {k: row[k] for k in ("solution", "answer")} for row in ROWS}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_gives_rows_or_one_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"sums{ending}"
    WRITERS[ending](path, ROWS)
    whole, task = path.read_bytes(), None
    for data in mutated(whole, seed=0, count=120):
        path.write_bytes(data)
        try:
            task = opened(path, verifier="exact")
        except UserError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017
            assert path.name in str(refusal)  # noqa: PT017
    assert task is not None


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_bad_row_among_good_ones_is_named_by_its_number(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"sums{ending}"
    WRITERS[ending](path, [*ROWS[:7], {**ROWS[7], "solution": None}, *ROWS[8:]])
    number = 9 if ending == ".csv" else 8  # the header is a line too
    assert f"row {number}: field 'solution' is missing" in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n", "no header"),
        ("problem,solution,answer\n", "no rows but its header"),
        ("problem,solution,problem\na,b,c\n", "column 'problem' is there twice"),
        ("problem,,answer\na,b,c\n", "column 2 has no name"),
        ("problem,solution,answer\na,b,c\n1,2\n", "row 3: 2 cells, the header has 3"),
        ("problem,solution,answer\n\"a\nb\",b,c\n1,2,3,4\n", "row 4: 4 cells"),
        ("problem,solution,answer\na,\"b,c\n", "row 2: not valid CSV"),
        ("problem,solution,answer\na,\"b\"x,c\n", "row 2: not valid CSV"),
        ("problem;solution;answer\na;b;c\n", "'problem;solution;answer'"),
    ],
)  # fmt: skip
def test_a_bad_csv_file_is_told_by_row(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert said in refused(path)


def test_csv_cells_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "y" * 200_000  # beyond the csv module's own bound
    path.write_bytes(
        f'\ufeffproblem,solution,answer\r\n"two\nlines, and ""quotes""",{long},007\r\n\r\nb,c,0.10\r\n'.encode()
    )
    rows = list(open_file(path).rows(["problem", "solution", "answer"]))
    assert rows[0] == (2, {"problem": 'two\nlines, and "quotes"', "solution": long, "answer": "007"})
    assert rows[1] == (5, {"problem": "b", "solution": "c", "answer": "0.10"})


def test_a_csv_row_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"problem,solution\na,\\boxed{1}\n\xff,c\n")
    assert "row 3" in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no rows"),
        ("{}", "it holds none"),
        ('{"a": 1}', "it holds none"),
        ('{"a": [1], "b": [2]}', "'a', 'b'"),
        ("5", "a int, not a list"),
        ("[5]", "row 1: a int, not an object"),
        ('[{"problem": "a", "solution": "b"}, 5]', "row 2: a int"),
        ('{"problem": "a"}\n{"problem": "b"}\n', "one object a line is .jsonl"),
        ("[" * 1000 + "]" * 1000, "nested"),
        ('[{"problem": ' + "9" * 5000 + "}]", "not usable JSON"),
        ('[{"problem": "a",\n "solution": }]', "line 2: not valid JSON"),
        ('[{"problem": "\\ud800", "solution": "b", "answer": "1"}]', "half a surrogate pair"),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_json_file_is_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert said in refused(path)


def test_a_list_within_an_object_is_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}))
    assert len(list(open_file(path).rows(["problem"]))) == len(ROWS)


@pytest.mark.parametrize(
    "line",
    [
        '{"problem": ' + "[" * 900 + "]" * 900 + "}",
        '{"a": ' * 200 + "1" + "}" * 200,
        '{"problem": 1e400}',
        '{"problem": ' + "9" * 5000 + "}",
        '{"problem": "\\ud800"}',
        '{"problem": "a\\u0000b"}',
        '{"problem": {"a": 1}}',
        '{"problem": [{"role": "user", "content": {"deep": 1}}]}',
        '{"problem": true}',
        '{"problem": NaN}',
        "[1, 2]",
        "5",
        "null",
        "\0",
        '{"problem": "x", "answer": 1e-999999999}',
        '{"problem": "x", "answer": 1e999999999}',
        '{"problem": "x", "solution": "x", "answer": {"a": {"b": [1e400]}}}',
    ],
    ids=lambda line: line[:40],
)
def test_a_hostile_line_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + line + "\n")
    try:
        opened(path, verifier="exact", solution_column=None)
    except UserError as refusal:
        assert "row 61" in str(refusal)  # noqa: PT017
    else:
        assert "1e-9" in line or "1e9" in line or "u0000" in line, "such a row is none"


COLUMNS: dict[str, Any] = {
    "bytes": pyarrow.array([b"\xff\x00", b"a"]),
    "dates": pyarrow.array([date(2020, 1, 1), None]),
    "far dates": pyarrow.array([2**40, 1], pyarrow.timestamp("s")),
    "durations": pyarrow.array([1, 2], pyarrow.duration("ns")),
    "decimals": pyarrow.array([Decimal("1.50"), Decimal("2")]),
    "lists": pyarrow.array([[1, 2], None]),
    "structs": pyarrow.array([{"a": {"b": 1}}, None]),
    "maps": pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "dictionaries": pyarrow.array(["a", "b"]).dictionary_encode(),
    "nulls": pyarrow.nulls(2),
    "not UTF-8": pyarrow.Array.from_buffers(
        pyarrow.string(),
        2,
        [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xffa")],
    ),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("role", ["problem", "solution", "answer"])
def test_a_parquet_column_of_any_type_gives_rows_or_one_line(column: str, role: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    plain = {"problem": ["a", "b"], "solution": ["1", "2"], "answer": ["1", "2"]}
    parquet.write_table(pyarrow.table({**plain, role: COLUMNS[column]}), path)
    try:
        opened(path, verifier="exact", held_out_fraction=0.01)
    except UserError as refusal:
        said = str(refusal)
        assert "row 1" in said
        assert role in said
    else:
        assert (column, role) in {("decimals", "answer")} or column == "dictionaries"


def test_a_doubled_parquet_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    cells = pyarrow.array(["a"])
    parquet.write_table(
        pyarrow.Table.from_arrays([cells, cells, cells], ["problem", "solution", "problem"]), path
    )
    assert "column 'problem' is there twice" in refused(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_file_is_said_at_once(ending: str, tmp_path: Path) -> None:
    pipe, loop, gone, folder = (tmp_path / f"{name}{ending}" for name in ("pipe", "loop", "gone", "folder"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    assert "no plain file" in refused(pipe)
    assert "no such file" in refused(loop)
    assert "no such file" in refused(gone)
    assert "cannot be loaded" in refused(folder)


def test_files_that_a_dataset_names_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"not to be read")
    rows = {**{k: [row[k] for row in ROWS] for k in ROWS[0]}, "image": [str(secret)] * len(ROWS)}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data.save_to_disk(tmp_path / "data")
    seen = []
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: seen.append(a))
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({**row, "image": "../../etc/passwd"}) + "\n" for row in ROWS)
    )
    assert opened(tmp_path / "data").rows
    assert (
        opened(tmp_path / "data.jsonl", extra_columns=("image",)).rows[0].private["image"]
        == "../../etc/passwd"
    )
    with pytest.raises(UserError, match="not a string"):
        opened(tmp_path / "data", problem_column="image")
    assert seen == []


def test_a_random_file_is_never_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(1)
    for ending in ENDINGS:
        for _ in range(30):
            path = tmp_path / f"noise{ending}"
            path.write_bytes(rng.randbytes(rng.randrange(200)))
            refused(path)
