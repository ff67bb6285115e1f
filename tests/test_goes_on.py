"""A run goes on from its folder alone, wherever it is told to, and says in one line what is another run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import selfteach
from selfteach.cli import main
from selfteach.cli.train import configured
from selfteach.training.inputs import MAY_NAME_FILES, value_of
from selfteach.training.progress import Silent
from selfteach.training.whereabouts import base_of, from_here, same_thing, started_in
from tiny import CHATML, tiny_model_folder

WORDS = [
    "--max-tokens",
    "4",
    "--prompts",
    "2",
    "--samples-every",
    "0",
    "--eval-problems",
    "2",
    "--eval-samples",
    "1",
    "--lora-rank",
    "0",
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, a reward, classes and a model, in which a run of one step was made by relative paths."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{i}+1", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(12)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def score(completion):\n    return 1.0\n\ndef other(completion):\n    return 0.0\n"
    )
    (tmp_path / "classes.json").write_text('{"digit": "[0-9]"}')
    tiny_model_folder(tmp_path / "model")
    words = [
        "train",
        "opsd",
        "--task",
        "data/rows.jsonl",
        "--model",
        "model",
        "--reward",
        "mine.py:score",
        *WORDS,
    ]
    assert main([*words, "--token-classes", "classes.json", "--steps", "1", "--out", "run"]) == 0
    return tmp_path


def steps(folder: Path) -> int:
    return int(json.loads((folder / "summary.json").read_text())["steps"])


def test_it_goes_on_from_another_folder(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data").mkdir()
    (elsewhere / "data/rows.jsonl").write_text('{"problem": "no", "solution": "no", "answer": "no"}\n')
    monkeypatch.chdir(elsewhere)
    assert main(["train", "--resume", "--out", str(project / "run"), "--steps", "2"]) == 0
    assert selfteach.train(resume=True, out=project / "run", steps=3, progress=Silent).summary["steps"] == 3
    monkeypatch.chdir(project / "data")
    assert main(["train", "--resume", "--out", "../run", "--steps", "4"]) == 0
    monkeypatch.chdir(project)
    assert main(["train", "--resume", "--out", "run", "--steps", "5"]) == 0
    assert steps(project / "run") == 5


def test_it_goes_on_where_all_of_it_has_moved(project: Path, monkeypatch: Any) -> None:
    moved = project.with_name("moved")
    project.rename(moved)
    monkeypatch.chdir(moved.parent)
    assert main(["train", "--resume", "--out", "moved/run", "--steps", "2"]) == 0


@pytest.mark.parametrize("spelling", ["absolute", "./", "link", "copy"])
def test_the_same_files_by_other_names_are_the_same(spelling: str, project: Path) -> None:
    def spelled(name: str) -> str:
        if spelling == "absolute":
            return str(project / name)
        if spelling == "./":
            return f"./data/../{name}"
        other = project / f"other-{name.replace('/', '-')}"
        if spelling == "link":
            other.symlink_to(project / name)
        else:
            other.write_bytes((project / name).read_bytes())
        return str(other)

    words = ["--task", spelled("data/rows.jsonl"), "--reward", f"{spelled('mine.py')}:score"]
    words += ["--token-classes", spelled("classes.json")]
    assert main(["train", "--resume", "--out", "run", "--steps", "2", *words]) == 0
    assert main(["train", "--resume", "--out", "run", "--steps", "3"]) == 0


def test_all_that_differs_is_said_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "more.jsonl").write_text((project / "data/rows.jsonl").read_text() + "\n" * 3)
    given = ["--lr", "0.5", "--task", "more.jsonl", "--reward", "mine.py:other", "--max-tokens", "5"]
    before = (project / "run/config.toml").read_bytes()
    assert main(["train", "--resume", "--out", "run", *given]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("selfteach: ")]
    for part in (
        "recipe.optimization.lr: 5e-06 → 0.5",
        "recipe.rollouts.max_tokens: 4 → 5",
        "run.task: 'data/rows.jsonl' → 'more.jsonl'",
        "run.reward: 'mine.py:score' → 'mine.py:other'",
        "inputs.task: what it reads has changed since",
    ):
        assert part in line
    assert "{" not in line
    assert (project / "run/config.toml").read_bytes() == before
    assert main(["train", "--resume", "--out", "run", "--steps", "2"]) == 0


@pytest.mark.parametrize(
    ("begun", "more", "why"),
    [
        (
            ["--schedule", "cosine"],
            ["--steps", "3"],
            "the cosine schedule of the learning rate was laid out for 1 steps",
        ),
        (
            ["--schedule", "linear"],
            ["--steps", "3"],
            "the linear schedule of the learning rate was laid out for 1 steps",
        ),
        (["--token-budget", "9"], ["--token-budget", "5"], "it can be raised, not lowered"),
    ],
)
def test_why_a_run_cannot_be_longer_or_shorter(
    begun: list[str], more: list[str], why: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "opsd",
        "--task",
        "data/rows.jsonl",
        "--model",
        "model",
        *WORDS,
        "--steps",
        "1",
        "--out",
        "b",
    ]
    assert main([*words, *begun]) == 0
    assert main(["train", "--resume", "--out", "b", *more]) == 2
    assert why in capsys.readouterr().err.splitlines()[-1]
    assert main(["doctor", "--resume", "--out", "b", *more]) == 2
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_where_a_run_was_started_is_kept_relative_to_it(project: Path) -> None:
    record = tomllib.loads((project / "run/config.toml").read_text())
    assert record["run"]["started_in"] == started_in(Path("run")) == ".."
    assert base_of(record, project / "run") == project.resolve()
    assert base_of({}, project / "run") == Path.cwd()


def test_what_is_the_same_thing(project: Path) -> None:
    for old, new, same in (
        ("mine.py:score", str(project / "mine.py:score"), True),
        ("mine.py:score", "mine.py:other", False),
        ("mine.py", "classes.json", False),
        ("frozen", "live", False),
        (["table", "data/rows.jsonl"], ["table", "./data/rows.jsonl"], True),
        (["table"], ["table", "chain"], False),
        (1, "1", False),
        ("a=data,b=mine.py", "a=./data,b=mine.py", True),
        ("a=data,b=mine.py", "b=data,a=mine.py", False),
        ("a=data", "data", False),
    ):
        assert same_thing(old, new, project) == same


# --- a run's record is read from another folder ---------------------------------------------------------------------


@pytest.fixture
def elsewhere(project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Path:
    """The project, seen from another folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return project


FEW = {"samples": 1, "problems": 2, "max_tokens": 4}


def test_a_run_is_measured_from_another_folder(
    elsewhere: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    there = selfteach.evaluate(elsewhere / "run", **FEW)
    assert main(["eval", str(elsewhere / "run"), "--samples", "1", "--problems", "2"]) == 0
    assert "1.000" in capsys.readouterr().out  # the run's own reward, mine.py:score, gives 1 for everything
    of_checkpoint = selfteach.evaluate(elsewhere / "run/checkpoints/step-1", **FEW)
    monkeypatch.chdir(elsewhere)
    assert there.result == of_checkpoint.result == selfteach.evaluate("run", **FEW).result


OWN_TASK = """
from selfteach.task.example import Example


class Mine:
    def __init__(self, seed):
        self.seed = seed

    def train(self, index):
        return self.held_out(1)[0]

    def held_out(self, count):
        return [Example(f"{self.seed}", ({"role": "user", "content": "1+1"},), {"answer": "2"})]

    def grade(self, example, answer):
        return 1.0
"""


def begun(project: Path, name: str, *more: str) -> Path:
    words = ["train", "opsd", "--model", "model", *WORDS, "--steps", "1", "--out", name]
    assert main([*words, *more]) == 0
    return project / name


def test_held_out_file_template_and_further_tasks_are_found_from_another_folder(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    (project / "held.jsonl").write_text('{"problem": "9+9", "solution": "18", "answer": "18"}\n')
    (project / "own.jinja").write_text(CHATML)
    (project / "mine.py").write_text(OWN_TASK)
    run = begun(
        project, "own", "--task", "data/rows.jsonl", "--held-out-file", "held.jsonl", "--chat-template", "own.jinja",
        "--eval-also", "data/rows.jsonl", "mine.py:Mine",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = selfteach.evaluate(run, samples=1, max_tokens=4)
    assert [one.example.problem.split("\n")[0] for one in found.answers] == ["9+9"]
    assert selfteach.chat(run, max_tokens=2, device="cpu").policy.renderer.template == CHATML
    exported = selfteach.export(run / "checkpoints/step-1", "exported")
    assert (exported / "chat_template.jinja").read_text() == CHATML
    assert main(["train", "--resume", "--out", str(run), "--steps", "2"]) == 0
    measured = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["eval/Mine/accuracy"] for row in measured if "eval/accuracy" in row] == [1.0, 1.0]


@pytest.mark.parametrize("move", [False, True])
def test_the_base_of_an_adapter_is_found_from_another_folder(
    move: bool, project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    run = begun(project, "lora", "--task", "table", "--lora-rank", "2")
    here = selfteach.evaluate(run, **FEW).result
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    if move:
        run = project.rename(project.with_name("moved-lora")) / "lora"
    for name in (run, run / "checkpoints/step-1"):
        assert selfteach.evaluate(name, **FEW).result == here
        selfteach.export(name, f"merged-{Path(name).name}", merge=True)


def test_models_that_teach_are_found_from_another_folder(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    words = ["train", "exopd", "--task", "table", "--model", "model", *WORDS, "--steps", "1"]
    for name, teacher in (("one", "model"), ("two", "a=model,b=./model"), ("trained", "run")):
        monkeypatch.chdir(project)
        extra = ["--max-unavailable", "1"]
        assert main([*words, *extra, "--teacher", teacher, "--reference", "./model", "--out", name]) == 0
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert main(["train", "--resume", "--out", str(project / name), "--steps", "2"]) == 0
        assert steps(project / name) == 2


def test_every_setting_that_may_name_a_file_is_read_from_where_the_run_was_started(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    """By the one list, of which every setting is in a run's record, and what is no file is left as it is."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for name in ("file", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.py").write_text("")
    (tmp_path / "model/config.json").write_text("{}")
    record: dict[str, Any] = {"run": {"started_in": "."}, "recipe": {"part": {"teacher": "a=model,b=hub/id"}}}
    record["recipe"] |= {"weights": "file", "reference": "model", "count": 3}
    for setting in MAY_NAME_FILES.values():
        table, _, knob = setting.partition(".")
        record.setdefault(table, {})[knob] = "file"
    record["evaluation"]["eval_also"] = ["file", "table", "hf:some/set", "x" * 5000, "\0"]
    record["run"]["reward"] = "file.py:score"
    found = from_here(record, tmp_path)
    for setting in MAY_NAME_FILES.values():
        table, _, knob = setting.partition(".")
        if knob not in ("eval_also", "reward"):
            assert found[table][knob] == str(tmp_path / "file"), setting
    assert found["run"]["reward"] == f"{tmp_path / 'file.py'}:score"
    assert found["evaluation"]["eval_also"] == [
        str(tmp_path / "file"),
        *record["evaluation"]["eval_also"][1:],
    ]
    assert found["recipe"]["weights"] == "file"  # a word, though there is such a folder
    assert found["recipe"]["reference"] == str(tmp_path / "model")
    assert found["recipe"]["part"]["teacher"] == f"a={tmp_path / 'model'},b=hub/id"
    assert record["run"]["task"] == "file"
    config = configured(["opsd", "--task", "table"])[0]
    record = config.table()
    for setting in MAY_NAME_FILES.values():
        table, _, knob = setting.partition(".")
        assert knob in record[table] or setting == "run.reward", setting
        value_of(config, setting)
