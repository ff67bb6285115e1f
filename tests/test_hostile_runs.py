"""Run folders and checkpoints as nobody wrote them: a page that says what it could not read, or one line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from hostile import damaged, mutated
from selfteach.api.result import load_run
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.report import build_report
from selfteach.studies.runs import Planned, labels
from selfteach.training import checkpoint
from synthetic_run import write_run

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", steps=2, rollouts=2, tokens=4)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


TEXTS = ("config.toml", "metrics.jsonl", "samples.jsonl", "summary.json", "tokens/step-1.json")
FILES = (*TEXTS, "tokens/step-1.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_run_leaves_a_page(run: Path, name: str) -> None:
    data = (run / name).read_bytes()
    for broken in mutated(data, seed=5, count=8):
        (run / name).write_bytes(broken)
        assert "</html>" in build_report(run).read_text()
        repr(load_run(run))


HOSTILE = [
    b"", b"\0", b"[" * 1000 + b"]" * 1000, b'{"a":' * 300 + b"1" + b"}" * 300, b"null", b"[]", b"5", b"\xff\xfe\x00",
    b'{"step": 1e400}', b'{"step": "NaN"}', b'{"step": true}', b'{"step": 1, "loss": ' + b"9" * 5000 + b"}",
    b'{"step": 1, "loss": {"a": [1]}, "kind": [1], "points": 5}',
    b'{"step": 1, "kind": "points", "points": {"a": [[1, 1e308]]}}',
    b'{"step": -5, "teacher_prompts": [1], "answer": {"a": 1}, "row": 99999999999999999999}',
    b'{"step": 1, "\\ud800": "\\ud800", "answer": "\\ud800"}',
    b'{"steps": {}, "alarms": 5, "unit": [], "headline": {}}',
    b'{"alarms": [5, {"name": 1}, {"since": "x"}]}', b'{"lengths": [-1], "pieces": [[]], "vocabulary": [[1]]}',
    b"a = " + b"[" * 1000 + b"]" * 1000, b"recipe = 5\nrun = []\npaper = 1\nabout = 'x'",
    b"[recipe]\nname = 5\n[paper]\nlr = 'x'",
    b'[recipe]\nname = {}\npreset = [1]\n[run]\ntask = {}\nseed = "x"\nheadline = 5\nunit = []',
]  # fmt: skip


def test_hostile_files_of_a_run_leave_a_page(run: Path) -> None:
    for content in HOSTILE:
        for name in FILES:
            (run / name).write_bytes(content + b"\n")
        assert "</html>" in build_report(run).read_text()
        repr(load_run(run))


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_file_leaves_a_page_that_says_so(run: Path, name: str) -> None:
    make: list[Callable[[Path], Any]] = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)]
    for one in make:
        (run / name).unlink()
        one(run / name)
        assert "</html>" in build_report(run).read_text()
        (run / name).rmdir() if (run / name).is_dir() else None
        if not os.path.lexists(run / name):
            (run / name).touch()


def test_model_text_names_and_keys_are_inert(run: Path, tmp_path: Path) -> None:
    config = {
        "recipe": {"name": SCRIPT, SCRIPT: SCRIPT},
        "paper": {SCRIPT: 1},
        "run": {"task": SCRIPT, "seed": SCRIPT},
    }
    (run / "config.toml").write_text(tomli_w.dumps({**config, "about": {"title": SCRIPT, "formula": SCRIPT}}))
    rows = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    shown = {"answer": SCRIPT, "key": SCRIPT, "problem": SCRIPT, "prompt": SCRIPT, "phase": "train"}
    rows = [{**row, **shown, "teacher_prompts": {SCRIPT: SCRIPT}} for row in rows]
    rows += [{"step": 1, "kind": SCRIPT, "key": SCRIPT, SCRIPT: SCRIPT}]
    rows += [{"step": 1, "kind": "points", "key": SCRIPT, "points": {SCRIPT: [[1, 2]]}}]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, SCRIPT: 1.0, f"divergence/{SCRIPT}": 1}) + "\n")
    (run / "summary.json").write_text(
        json.dumps({SCRIPT: SCRIPT, "alarms": [{"name": SCRIPT, "seen": SCRIPT}]})
    )
    texts = json.loads((run / "tokens" / "step-1.json").read_text())
    texts["pieces"] = [[SCRIPT for _ in row] for row in texts["pieces"]]
    texts["vocabulary"] = [[number, SCRIPT] for number, _ in texts["vocabulary"]]
    (run / "tokens" / "step-1.json").write_text(json.dumps(texts))
    named = run.rename(tmp_path / "a<script>alert(3)<b>")
    html = build_report(named).read_text()
    assert "alert(1)" in html
    for evil in ("<script>alert", "<img src=x"):
        assert evil not in html
    assert html.count("<script") == html.count("</script>")
    assert "<script>alert" not in load_run(named)._repr_html_()


def test_a_summary_that_is_none_is_told_where_a_comparison_needs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from selfteach.studies.runs import Planned, labels, summary_of

    planned = Planned("opsd", 0, tmp_path)
    for content in ("", "[" * 1000, "[]", "5"):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(UserError, match=r"summary\.json"):
            summary_of(planned)
    (tmp_path / "config.toml").write_text("run = [")
    with pytest.raises(UserError, match=r"config\.toml"):
        labels([planned])


# --- checkpoints ------------------------------------------------------------------------------------------------------

SMALL = ["--task", "table", "--steps", "2", "--prompts", "2", "--max-tokens", "8", "--eval-problems", "2",
         "--eval-samples", "1", "--checkpoint-every", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "opsd", *SMALL, "--out", str(out)]) == 0
    return out


def sealed(folder: Path) -> None:
    """Give a checkpoint the right sizes and hashes for what its files now hold."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def resumed(
    trained: Path, tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> str:
    """What is said to a resume from a checkpoint that ``change`` has been at."""
    run = Path(shutil.copytree(trained, tmp_path / "run", dirs_exist_ok=True))
    for path in (run / "checkpoints").iterdir():
        if checkpoint.step_of(path) == 2:
            shutil.rmtree(path)
    (run / "summary.json").unlink(missing_ok=True)
    folder = run / "checkpoints" / "step-1"
    change(folder)
    sealed(folder)
    capsys.readouterr()
    code = main(["train", "--resume", "--out", str(run)])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfteach: ")]
    assert (code, len(said)) == (2, 1)
    return said[0]


def edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tree = json.loads((folder / "state.json").read_text())
        edit(tree)
        (folder / "state.json").write_text(json.dumps(tree))

    return change


def tensors(edit: Callable[[torch.Tensor], torch.Tensor], group: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / f"{group}.safetensors"
        held = load_file(file)
        name = max(held, key=lambda one: held[one].numel())
        held[name] = edit(held[name]).contiguous()
        save_file(held, file)

    return change


WRONG: dict[str, Callable[[Path], None]] = {
    "no progress": edited(lambda tree: tree.pop("progress")),
    "progress is a list": edited(lambda tree: tree.update(progress=[1])),
    "step is text": edited(lambda tree: tree["progress"].update(step="one")),
    "step is negative": edited(lambda tree: tree["progress"].update(step=-1)),
    "stage is another": edited(lambda tree: tree["progress"].update(stage="no such stage")),
    "last is text": edited(lambda tree: tree["progress"].update(last="x")),
    "no weights": edited(lambda tree: tree.pop("weights")),
    "weights are numbers": edited(lambda tree: tree.update(weights={"policy": {"a": 1}})),
    "no random": edited(lambda tree: tree.update(random=[])),
    "random is text": edited(lambda tree: tree.update(random=["x"])),
    "no learner": edited(lambda tree: tree.pop("learner")),
    "learner is None": edited(lambda tree: tree.update(learner=None)),
    "an optimizer is missing": edited(lambda tree: tree.update(optimizers={})),
    "an optimizer is text": edited(lambda tree: tree.update(optimizers={"policy": "x"})),
    "roles are others": edited(lambda tree: tree.update(roles={"x": {}})),
    "a tensor is missing": edited(
        lambda tree: tree["progress"].update(step={"$tensor": ["weights", "/none"]})
    ),
    "a float is none": edited(lambda tree: tree["progress"].update(spent={"$float": "huge"})),
    "the state is a list": lambda folder: (folder / "state.json").write_text("[]") and None,
    "the state is deep": lambda folder: (
        (folder / "state.json").write_text('{"a":' * 900 + "1" + "}" * 900) and None
    ),
    "weights of another shape": tensors(lambda t: t[:1], "weights"),
    "weights of another dtype": tensors(lambda t: t.to(torch.float16), "weights"),
    "moments of another shape": tensors(lambda t: t[:1], "optimizers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_of_other_content_is_one_line(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = resumed(trained, tmp_path, WRONG[name], capsys)
    assert "checkpoint" in said or "begun with 0 processes" in said


def test_a_damaged_state_with_right_hashes_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    folder = tmp_path / "step-1"
    for _ in range(40):
        shutil.copytree(trained / "checkpoints" / "step-1", folder, dirs_exist_ok=True)
        (folder / "state.json").write_bytes(damaged((folder / "state.json").read_bytes(), rng))
        sealed(folder)
        try:
            checkpoint.load(folder)
        except UserError as refusal:
            assert len(str(refusal).splitlines()) == 1  # noqa: PT017


# --- records ----------------------------------------------------------------------------------------------------------

TABLES = ("about", "recipe", "run", "loading", "task_options", "evaluation", "bookkeeping", "inputs")
BROKEN = {
    **{f"{name} = {value}": (name, value) for name in TABLES for value in ("5", "[1]", "'x'")},
    "no run": ("run", None),
    "no recipe": ("recipe", None),
}


@pytest.mark.parametrize("change", BROKEN)
def test_a_record_in_which_a_table_is_none_is_one_line(
    change: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    record = tomllib.loads((run / "config.toml").read_text())
    name, value = BROKEN[change]
    record.pop(name)
    text = "" if value is None else f"{name} = {value}\n"
    (run / "config.toml").write_text(text + tomli_w.dumps(record))
    capsys.readouterr()
    few = ["--samples", "1", "--problems", "1", "--max-tokens", "2"]
    for words in (
        ["train", "--resume", "--out", str(run), "--steps", "3"],
        ["train", "--config", str(run), "--steps", "3", "--out", str(tmp_path / "other"), "--dry-run"],
        ["eval", str(run), *few],
        ["eval", str(run / "checkpoints/step-2"), *few],
        ["export", str(run / "checkpoints/step-2"), "--out", str(tmp_path / "exported")],
    ):
        code = main(words)
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 2, words
        assert len(lines) == 1, lines
        assert name in lines[0], lines


VALUES = {
    "run.started_in": 5, "run.given": 5, "run.seed": "x", "run.task": [], "run.reward": 5, "recipe.rollouts": 5,
    "recipe.adapter": 5, "recipe.student_thinking": [], "loading.model": 5, "evaluation.eval_max_tokens": "x",
    "evaluation.eval_also": 5, "inputs.model": [], "inputs.task": {}, "task_options.held_out_file": [1],
    "bookkeeping.sample_batch": {}, "about.format": "x",
}  # fmt: skip


@pytest.mark.parametrize("setting", VALUES)
def test_a_record_with_a_value_that_is_none_is_no_traceback(
    setting: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    record = tomllib.loads((run / "config.toml").read_text())
    table, _, knob = setting.partition(".")
    record[table][knob] = VALUES[setting]
    (run / "config.toml").write_text(tomli_w.dumps(record))
    monkeypatch.chdir(tmp_path)
    few = ["--samples", "1", "--problems", "1", "--max-tokens", "2"]
    for words in (
        ["train", "--config", str(run), "--steps", "3", "--out", str(tmp_path / "other"), "--dry-run"],
        ["eval", str(run), *few],
        ["eval", str(run / "checkpoints/step-2"), *few],
    ):
        assert main(words) in (0, 2)
    with contextlib.suppress(UserError):
        labels([Planned("opsd", 0, run)])


def test_a_summary_whose_rooms_are_none_is_no_traceback(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))
    summary = json.loads((run / "summary.json").read_text())
    for rooms in (3, "x", [1], {"policy": "x"}):
        (run / "summary.json").write_text(json.dumps({**summary, "room": rooms}))
        assert main(["eval", str(run), "--samples", "1", "--problems", "1", "--max-tokens", "2"]) == 0
