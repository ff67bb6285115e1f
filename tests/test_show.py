"""``selfteach show``: what a run wrote, chosen, in the terminal; its metrics as CSV."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import selfteach
from selfteach.cli import main


def answer(step: int, phase: str, key: str, outcome: str | None, text: str, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "phase": phase, "kind": "text", "key": key, "problem": f"problem of {key}",
        "prompt": f"<user>{key}<assistant>", "teacher_prompts": {"teacher": f"told {key}"}, "answer": text,
        "reward": float(outcome == "right"), "outcome": outcome, "reference": "42", "length": 3, "finished": True,
        **more,
    }  # fmt: skip


ROWS = [
    answer(0, "before", "p1", "wrong", "before"),
    answer(0, "probe", "p1", "cut off", "first try"),
    answer(0, "probe", "p2", "right", "other problem"),
    answer(1, "train", "t1", "wrong", "two\nlines"),
    answer(1, "probe", "p1", "wrong", "second try"),
    {"step": 1, "kind": "picture", "key": "x", "phase": "train"},
    answer(2, "probe", "p1", "right", "third try"),
]
METRICS = [
    {"step": 0, "eval/headline": 0.25},
    {"step": 1, "loss": 0.1234567890123456, "grad_norm": "NaN", "alarms": [{"name": "a", "since": 1}]},
    {"step": 2, "loss": 0.5, "eval/headline": 0.5},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text('[recipe]\nname = "opsd"\npreset = "v1"\n[run]\ntask = "table"\n')
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["show", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ([], ["before", "first try", "other problem", "two", "second try", "third try"]),
        (["--phase", "probe"], ["first try", "other problem", "second try", "third try"]),
        (["--step", "1"], ["two", "second try"]),
        (["--key", "p2"], ["other problem"]),
        (["--outcome", "right"], ["other problem", "third try"]),
        (["--outcome", "cut off"], ["first try"]),
        (["--outcome", "wrong", "--phase", "probe"], ["second try"]),
        (["--phase", "probe", "--by", "key"], ["first try", "second try", "third try", "other problem"]),
    ],
)
def test_answers_are_chosen_and_in_order(
    words: list[str], answers: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(capsys, run, *words)
    assert [line.split("answer   ")[1] for line in said.splitlines() if "    answer " in line] == answers
    assert "opsd, preset v1, on table" in said


def test_python_has_the_same_door(run: Path) -> None:
    found = selfteach.load_run(run).samples(phase="probe", outcome="right")
    assert [(row["key"], row["step"]) for row in found] == [("p2", 0), ("p1", 2)]


def test_what_an_answer_is_shown_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, run, "--step", 1, "--phase", "train")
    assert "step 1, train" in said
    assert "t1  wrong  3 tokens" in said
    assert "answer   two\n             lines\n" in said
    assert "expected 42" in said
    assert "told t1" not in said
    assert "told t1" in shown(capsys, run, "--step", 1, "--phase", "train", "--prompts")
    assert "expected" not in shown(capsys, run, "--outcome", "right")


def test_long_and_hidden_text_is_cut_and_shown_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [answer(1, "train", "[red]k", None, "\x1b[31m" + "x" * 5000, reward=0.0, finished=False)]
    del rows[0]["outcome"]  # as an earlier version wrote them
    rows.append(answer(1, "train", "k2", "nonsense", "y", reward=0.0))
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["outcome"] for row in selfteach.load_run(run).samples()] == ["cut off", "wrong"]
    assert [one.outcome for one in selfteach.load_run(run).data.samples] == ["cut off", "wrong"]
    said = shown(capsys, run)
    assert "[red]k  cut off" in said
    assert "\\u{1b}[31mxxx" in said
    assert "(3,005 more characters, --full)" in said
    assert "x" * 5000 in shown(capsys, run, "--full")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", "7"], "no answer has step 7; known: 0, 1, 2"),
        (["--key", "p3"], "did you mean p"),
        (["--outcome", "rigth"], "right"),
        (["--phase", "middle"], "phase"),
    ],
)
def test_what_there_is_not_is_said(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(run), *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out


def test_a_folder_without_answers_or_without_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "samples.jsonl").unlink()
    assert main(["show", str(run)]) == 2
    assert "no answers down yet" in capsys.readouterr().err
    assert main(["show", str(run.parent)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_metrics_as_csv_lose_no_digit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), "--csv", str(run.parent / "deep" / "m.csv")]) == 0
    text = (run.parent / "deep" / "m.csv").read_text()
    table = list(csv.DictReader(text.splitlines()))
    assert list(table[0]) == ["step", "eval/headline", "loss", "grad_norm", "alarms"]
    assert float(table[1]["loss"]) == 0.1234567890123456
    assert (table[1]["eval/headline"], table[1]["grad_norm"], table[0]["loss"]) == ("", "NaN", "")
    assert json.loads(table[1]["alarms"]) == [{"name": "a", "since": 1}]
    capsys.readouterr()
    assert shown(capsys, run, "--csv", "-") == text
    selfteach.load_run(run).csv(run.parent / "again.csv")
    assert (run.parent / "again.csv").read_text() == text
    assert main(["show", str(run), "--csv", str(run / "metrics.jsonl" / "x.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault(run: Path) -> None:
    rows = [answer(step, "train", f"t{step}", "wrong", "x" * 1000) for step in range(2000)]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = f"{sys.executable} -m selfteach show {run} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")
