"""Data of recipes without tokens: splits, and files that strangers wrote."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selfteach
from selfteach.errors import UserError
from selfteach.task.arrays import NAMED, TEST, VALID, load_arrays


def written(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "rows.npz", **arrays)
    return str(folder / "rows.npz")


def test_parts_are_disjoint_and_together_the_whole(tmp_path: Path) -> None:
    x = np.arange(200.0)
    found = load_arrays(written(tmp_path, x=x, y=x))
    parts = [part.x[:, 0] for part in (found.train, found.valid, found.test)]
    assert sorted(np.concatenate(parts)) == list(x)
    assert [len(part) for part in parts] == [200 - 40 - 60, round(VALID * 200), round(TEST * 200)]
    assert (found.train.x == found.train.y).all()


def test_a_seed_draws_its_parts(tmp_path: Path) -> None:
    file = written(tmp_path, x=np.arange(50.0), y=np.arange(50.0))
    one, again, other = load_arrays(file, 3), load_arrays(file, 3), load_arrays(file, 4)
    assert (one.train.x == again.train.x).all()
    assert not (one.train.x == other.train.x).all()


def test_rows_of_a_test_part_are_held_out_whole(tmp_path: Path) -> None:
    file = written(tmp_path, x=np.zeros((40, 3)), y=np.arange(40) % 4, x_test=np.ones((7, 3)), y_test=[0] * 7)
    found = load_arrays(file)
    assert len(found.test) == 7
    assert (found.test.x == 1).all()
    assert len(found.train) + len(found.valid) == 40
    assert found.classes == 4


@pytest.mark.parametrize("name", NAMED)
def test_data_by_name_are_finite_and_of_one_shape(name: str) -> None:
    found = load_arrays(name)
    for part in (found.train, found.valid, found.test):
        assert np.isfinite(part.x).all()
        assert part.x.shape[1:] == found.train.x.shape[1:]
        assert part.x.dtype == np.float64
    assert found.classes == 0 or found.train.y.max() < found.classes


ONE = np.ones(30)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"x": ONE}, "has no arrays x and y"),
    "objects": ({"x": np.array([{}] * 30, dtype=object), "y": ONE}, "cannot be read"),
    "text": ({"x": np.array(["a"] * 30), "y": ONE}, "not a list of numbers"),
    "a number": ({"x": np.array(1.0), "y": ONE}, "not a list of numbers"),
    "complex": ({"x": ONE + 1j, "y": ONE}, "is complex"),
    "nan": ({"x": ONE * np.nan, "y": ONE}, "not finite"),
    "infinite": ({"x": ONE, "y": ONE * np.inf}, "not finite"),
    "lengths": ({"x": ONE, "y": ONE[:-1]}, "30 rows and y 29"),
    "negative labels": ({"x": ONE, "y": -np.ones(30, dtype=int)}, "negative label"),
    "a label that is nowhere else": (
        {"x": ONE, "y": np.zeros(30, dtype=int), "x_test": ONE, "y_test": np.full(30, 5)},
        "a label that y lacks",
    ),
    "another shape": ({"x": ONE, "y": ONE, "x_test": np.ones((3, 2)), "y_test": np.ones(3)}, "another shape"),
    "one part of two": ({"x": ONE, "y": ONE, "x_test": ONE}, "give both, or neither"),
    "a number that drowns the others": ({"x": ONE * 1e300, "y": ONE}, "scale it"),
    "a wild label": ({"x": ONE, "y": np.r_[np.zeros(29, dtype=int), 10**8]}, "without gaps, and y has no 1"),
    "a wrapped label": ({"x": ONE, "y": np.full(30, 2**63 + 1, dtype=np.uint64)}, "scale it"),
    "labels with a gap": ({"x": ONE, "y": np.arange(30) % 3 * 2}, "y has no 1 but 4"),
    "durations": ({"x": np.ones(30, dtype="m8[s]"), "y": ONE}, "timedelta"),
    "empty": ({"x": ONE[:0], "y": ONE[:0]}, "0 rows are left"),
    "empty rows": ({"x": np.ones((30, 0)), "y": ONE}, r"shape \[30, 0\]: its rows are empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(tmp_path: Path, case: str) -> None:
    arrays, said = BAD[case]
    with pytest.raises(UserError, match=said) as problem:
        load_arrays(written(tmp_path, **arrays))
    assert "\n" not in str(problem.value)


def zipped(name: str, content: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr(name, content)
    return held.getvalue()


def npy() -> bytes:
    held = io.BytesIO()
    np.save(held, np.ones(3))
    return held.getvalue()


BROKEN = {
    "empty": b"",
    "text": b"no zip",
    "cut": b"PK\x03\x04 cut",
    "header": zipped("x.npy", b"\x93NUMPY\x01\x00"),
    "no array": zipped("x.npy", b"text"),
    "path": zipped("a/../x", b""),
    "raw members": zipped("x", b"1 2 3"),
    "an array alone": npy(),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_no_arrays_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.npz"):
        load_arrays(str(tmp_path / "rows.npz"))


@pytest.mark.parametrize("case", ["empty", "text", "an array alone"])
def test_what_is_no_archive_is_called_so(tmp_path: Path, case: str) -> None:
    """numpy would tell of pickles, and advise to allow them."""
    (tmp_path / "rows.npz").write_bytes(BROKEN[case])
    with pytest.raises(UserError, match=r"is no archive of arrays, .* numpy\.savez") as problem:
        load_arrays(str(tmp_path / "rows.npz"))
    assert "pickle" not in str(problem.value)


def test_a_header_that_promises_more_than_there_is_is_one_line(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    (tmp_path / "rows.npz").write_bytes(zipped("x.npy", held.getvalue()))
    with pytest.raises(UserError, match="cannot be read"):
        load_arrays(str(tmp_path / "rows.npz"))


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    for name in ("none.npz", "folder.npz"):
        with pytest.raises(UserError, match="is no file"):
            load_arrays(str(tmp_path / name))
    with pytest.raises(UserError, match="is unknown"):
        load_arrays("digit")


@pytest.mark.parametrize("recipe", ["kernel-sd", "recursive-meta"])
def test_data_of_which_nothing_is_held_out_is_refused(recipe: str, tmp_path: Path) -> None:
    """The mean of no errors is NaN."""
    none = {"x_test": np.zeros((0, 3)), "y_test": np.zeros(0, int)}
    file = written(tmp_path, x=np.zeros((40, 3)), y=np.arange(40) % 4, **none)
    with pytest.raises(UserError, match="no rows are held out"):
        load_arrays(file)
    with pytest.raises(UserError, match="no rows are held out"):
        selfteach.train(recipe, data=file, out=tmp_path / "run", device="cpu", progress=None)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
