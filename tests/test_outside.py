"""JSON of strangers within bounds, and errors of code that is not ours in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfteach import outside
from selfteach.errors import UserError
from selfteach.importing import users_call
from selfteach.outside import DEEPEST, parsed_json, with_type
from selfteach.report import rows as report_rows
from selfteach.report.tokens import read_look
from selfteach.task.reading import open_file
from selfteach.training.jsonrows import step_row


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("encode", [str, str.encode, lambda text: text.encode("utf-16")])
def test_what_is_deeper_or_longer_than_the_bounds_is_refused_in_every_encoding(encode: Any) -> None:
    assert parsed_json(encode(nested(DEEPEST))) == json.loads(nested(DEEPEST))
    with pytest.raises(ValueError, match=f"deeper than {DEEPEST}"):
        parsed_json(encode(nested(DEEPEST + 2)))
    assert parsed_json(encode("[1,[2],{}]"), most=5) == [1, [2], {}]
    with pytest.raises(ValueError, match="more than 4 values"):
        parsed_json(encode("[1,[2],{}]"), most=4)


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    wide = f"[{','.join(['[]'] * 500)}]"
    assert parsed_json(wide) == [[]] * 500


def test_rows_are_walked_through_only_where_they_may_exceed_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Any] = []
    within_bounds = outside.within_bounds
    monkeypatch.setattr(
        outside, "within_bounds", lambda value, most: walked.append(value) or within_bounds(value, most)
    )
    row = {"step": 1, **{f"metric{i}": i for i in range(121)}, "problem": "1?", "answer": "1"}
    line = json.dumps(row).encode()
    file = tmp_path / "rows.jsonl"
    file.write_bytes(line + b"\n")
    assert report_rows.parsed(line) == step_row(line) == row
    assert [found["problem"] for _, found in open_file(file).rows(["problem"])] == ["1?"]
    assert walked == []
    deep = json.dumps({"step": 1, "x": json.loads(nested(DEEPEST + 2))}).encode()
    assert report_rows.parsed(deep) == {}
    assert step_row(deep) is None
    file.write_bytes(deep + b"\n")
    with pytest.raises(UserError, match="row 1: not usable JSON"):
        list(open_file(file).rows(["step"]))
    assert len(walked) == 3


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b."), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (UserError("mend it"), "mend it"),
        (FileNotFoundError(2, "No such file", "x"), "FileNotFoundError: [Errno 2] No such file: 'x'"),
        (SyntaxError("invalid syntax", ("f.py", 3, 1, "x")), "SyntaxError: invalid syntax"),
        (RecursionError("maximum recursion depth"), "RecursionError: maximum recursion depth"),
        (RuntimeError("x" * 1000), "RuntimeError: " + "x" * 300),
    ],
)
def test_an_error_of_other_code_is_one_line_with_its_type(error: Exception, said: str) -> None:
    assert with_type(error) == said
    with pytest.raises(UserError) as told:
        users_call("reward f", raising, error)
    assert str(told.value).startswith(f"reward f: {said}")


def test_a_look_without_its_tensors_names_the_file_that_is_missing(tmp_path: Path) -> None:
    look = tmp_path / "step-1.json"
    look.write_text(json.dumps({"lengths": [1], "pieces": [["a"]], "vocabulary": []}))
    with pytest.raises(UserError, match=r"step-1\.safetensors cannot be read"):
        read_look(look)
    save_file({"ids": np.zeros(1, dtype=np.int64)}, tmp_path / "step-1.safetensors")
    assert read_look(look).pieces == [["a"]]
    look.unlink()
    with pytest.raises(UserError, match=r"step-1\.json cannot be read"):
        read_look(look)
