"""Rows of studies that several processes keep in one folder, and a folder that takes none."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfteach.errors import UserError
from selfteach.studies.plan import StudySettings
from selfteach.studies.rows import Row, Rows
from selfteach.studies.runner import run_studies


def row(words: str, seed: int) -> Row:
    return Row(
        words, seed, "f", {"eval/headline": dict.fromkeys(("last", "first", "mean", "max", "auc"), 0.5)}
    )


def test_what_another_process_kept_stays(tmp_path: Path) -> None:
    one, other = Rows(tmp_path), Rows(tmp_path)
    one.add(row("sft --steps 1", 0))
    other.add(row("sft --steps 1", 1))
    one.add(row("sft --steps 2", 0))
    kept = Rows(tmp_path)
    for words, seed in (("sft --steps 1", 0), ("sft --steps 1", 1), ("sft --steps 2", 0)):
        assert kept.find(words, seed, "f", ["eval/headline"]) is not None
    assert other.find("sft --steps 1", 0, "f") is not None


def test_results_that_cannot_be_written_are_refused_before_any_run(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(UserError, match="could not be written"):
        run_studies(
            StudySettings((), tmp_path / "runs"), lambda words: pytest.fail("a run is asked for"), jobs=1,
            command="selfteach study", results=blocked,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"words": "opsd --steps 1"', "a row of recipe opsd; move it to opsd.jsonl"),
        ('"seed": 1e999', "not a row of a study"),
        ('"seed": 0.5', "not a row of a study"),
        ('"spent": "x"', "not a row of a study"),
        ('"curve": []', "not a row of a study"),
        ('"stopped": []', "not a row of a study"),
        (f'"spent": 1{"0" * 400}', "not a row of a study"),
    ],
)
def test_a_damaged_or_foreign_row_is_refused_and_none_is_lost(
    written: str, said: str, tmp_path: Path
) -> None:
    Rows(tmp_path).add(row("sft --steps 1", 0))
    file = tmp_path / "sft.jsonl"
    good = file.read_text()
    name = written.partition(":")[0]
    fields = {"words": '"sft --steps 1"', "seed": "1", "fingerprint": '"f"', "metrics": "{}"}
    told = {f'"{key}"': f'"{key}": {value}' for key, value in fields.items()} | {name: written}
    file.write_text(good + "{" + ", ".join(told.values()) + "}\n")
    before = file.read_text()
    with pytest.raises(UserError, match=f"sft.jsonl, line 2: {said}"):
        Rows(tmp_path)
    assert file.read_text() == before
