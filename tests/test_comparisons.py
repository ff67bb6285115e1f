"""What a comparison says of itself, and what it refuses before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import selfteach
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.studies.comparing import about, refuse_another

ROWS = [{"problem": f"Say {i}.", "solution": f"It is {i}."} for i in range(20)]


def results(equal: str, **spent: float) -> dict[str, Any]:
    return {
        "task": "rows", "headline": "held-out accuracy", "equal": equal, "seeds": 2,
        "recipes": {label: {"spent": value} for label, value in spent.items()},
    }  # fmt: skip


def test_tokens_that_are_not_equal_are_said_beside_the_word() -> None:
    unequal = about(results("tokens", opsd=1010.0, grpo=7966.0, sft=0.0))
    assert "not equal: grpo spent 7,966, opsd 1,010" in unequal
    for fine in (
        results("tokens", opsd=1000.0, grpo=1200.0),
        results("steps", opsd=1.0, grpo=99.0),
        results("tokens", sft=0.0),
    ):
        assert "not equal" not in about(fine)


def test_what_nobody_grades_is_not_compared(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing in .* is graded, so nothing can be compared"):
        selfteach.compare(["opsd", "sft"], tiny, ROWS, verifier="none", out=tmp_path / "out", steps=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["results.json", "results.md", "compare.html"])
def test_a_comparison_does_not_write_over_files_of_the_user(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name} already"):
        refuse_another(tmp_path, {"steps": 1})
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    refuse_another(tmp_path, {"steps": 1})
    (tmp_path / name).write_text("ours")
    refuse_another(tmp_path, {"steps": 1})


def test_a_refused_start_leaves_no_lock_in_a_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine = 1\n")
    words = ["train", "opsd", "--task", "table", "--steps", "1", "--out", str(tmp_path)]
    assert main(words) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]
