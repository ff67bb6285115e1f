"""Forty rows of one's own: how they are split, what is said, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import selfteach
from runs import Rows
from selfteach.api.training import configured
from selfteach.cli import main
from selfteach.task.rows import make_task
from selfteach.task.sizes import LEAST, sizes_of
from selfteach.task.split import FEW, fingerprint, held_out_of, is_held_out
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import rehearse
from selfteach.training.progress import Silent
from selfteach.training.text.learner import TextLearner
from tiny import tiny_model_folder

Row = dict[str, Any]
SHORT: dict[str, Any] = {
    "steps": 1,
    "max_tokens": 4,
    "samples_every": 0,
    "eval_samples": 1,
    "lora_rank": 0,
    "progress": Silent,
}


def rows(count: int) -> list[Row]:
    return [
        {"problem": f"What is {i} + {i}?", "solution": f"It is \\boxed{{{2 * i}}}.", "answer": str(2 * i)}
        for i in range(count)
    ]


def file(path: Path, listed: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("few") / "model"))


def refusal(function: Callable[..., Any], *given: Any, **more: Any) -> str:
    with pytest.raises(selfteach.UserError) as error:
        function(*given, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the split --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [*range(2, 60), 100, FEW - 1, FEW, 400])
def test_some_problems_are_held_out_and_most_are_not(count: int) -> None:
    problems = [row["problem"] for row in rows(count)]
    held = held_out_of(problems)
    assert held == held_out_of([*reversed(problems), *problems])
    assert (1 if count < LEAST else 2) <= len(held) <= max(1, count // 4)
    assert held == set(sorted(map(fingerprint, problems))[: len(held)])
    if count >= FEW:
        assert held == {fingerprint(one) for one in problems if is_held_out(one, 0.05)}


def test_what_is_held_out_does_not_depend_on_how_many_are_asked_for() -> None:
    task = make_task(rows(40))
    every = task.held_out(1000)
    assert [task.held_out(n) for n in range(1, 50)] == [every[:n] for n in range(1, 50)]


def test_a_share_of_ones_own_goes_by_the_hash_alone() -> None:
    problems = [row["problem"] for row in rows(100)]
    assert held_out_of(problems, 0.05) == {fingerprint(one) for one in problems if is_held_out(one, 0.05)}


def test_the_same_question_never_stands_on_both_sides() -> None:
    task = make_task(
        [*rows(20), *({**row, "problem": row["problem"].replace(" ", "  ")} for row in rows(20))]
    )
    sizes = sizes_of(task)
    assert sizes is not None
    assert (sizes.rows, sizes.problems + sizes.held_out) == (2 * sizes.problems, 20)
    held = {fingerprint(one.problem) for one in task.held_out(40)}
    assert held.isdisjoint(fingerprint(task.train(i).problem) for i in range(sizes.rows))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["opsd", "grpo", "sdpo", "sft", "atesd", "avsd", "cepo"])
def test_eight_rows_are_enough_and_a_step_may_be_larger(recipe: str, tiny: str, tmp_path: Path) -> None:
    more = {} if recipe in ("opsd", "sft", "atesd", "avsd") else {"per_prompt": 2}
    result = selfteach.train(recipe, tiny, rows(LEAST), prompts=16, out=tmp_path / "run", **SHORT, **more)
    assert result.finished
    (row,) = (one for one in read_rows(result.folder / "metrics.jsonl") if "loss" in one)
    assert row["step"] == 1


def test_what_there_is_is_said_before_the_first_step(tiny: str, tmp_path: Path) -> None:
    shown = Rows()
    more = {**SHORT, "steps": 2, "prompts": 62, "progress": lambda: shown}
    selfteach.train("opsd", tiny, rows(40), out=tmp_path / "run", **more)
    sizes = sizes_of(make_task(rows(40)))
    assert sizes is not None
    assert shown.said[0] == f"data: 40 rows: {sizes.rows} to train on, {sizes.held_out} held out"
    epochs = f"{2 * 62 / sizes.rows:.3g}"
    assert shown.said[1] == (
        f"data: 2 steps of 62 prompts over {sizes.rows} rows: {epochs} epochs; rows are drawn again within a step"
    )


def test_fewer_than_eight_are_one_line_before_the_model_is_looked_for(tmp_path: Path) -> None:
    few, out = rows(LEAST - 1), tmp_path / "run"
    said = refusal(selfteach.train, "opsd", tmp_path / "no-model", few, out=out, **SHORT)
    assert said.startswith("rows: 7 different problems are too few")
    assert refusal(selfteach.train, "opsd", tmp_path / "no-model", few * 2, out=out, **SHORT) == said
    assert not out.exists()
    one = refusal(selfteach.train, "opsd", tmp_path / "no-model", rows(1), out=out, **SHORT)
    assert one.startswith("rows: 1 different problem is too few")


def test_one_question_needs_no_others(tiny: str, tmp_path: Path) -> None:
    result = selfteach.train("opsd", tiny, rows(3), only=0, prompts=1, out=tmp_path / "run", **SHORT)
    assert result.finished


def test_the_probes_problems_are_never_trained_on(tiny: str) -> None:
    config = configured("atesd", tiny, rows(12), prompts=4, max_tokens=4, lora_rank=0)
    shown = Rows()
    learner = TextLearner(config, shown)
    probed = {one.example.problem for one in learner.writing.probed}
    assert len(probed) == len(make_task(rows(12)).rows) // 4  # type: ignore[attr-defined]
    assert any(f"kept out of training, to be measured on: {len(probed)} of 16" in one for one in shown.said)
    trained = {one.example.problem for one in learner.writing.prompts.take(40)}
    assert trained
    assert trained.isdisjoint(probed)


# --- refused by doctor as by train ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[str], str]] = {
    "no problem to be measured on": (["--held-out-fraction", "1e-9"], "no problem is held out"),
    "two splits": (["--held-out-file", "ROWS", "--held-out-fraction", "0.5"], "both say what is held out"),
    "evaluations without problems": (["--eval-problems", "0", "--eval-every", "5"], "--eval-problems is 0"),
    "other tasks without problems": (
        ["--eval-problems", "0", "--eval-also", "table"],
        "--eval-problems is 0",
    ),
    "another task that is not there": (["--eval-also", "none.jsonl"], "there is no such file"),
    "two other tasks of one name": (["--eval-also", "sums", "sums"], "each task needs a name of its own"),
    "a held-out file that is not there": (["--held-out-file", "none.jsonl"], "there is no such file"),
    "no answer is ever right": (["--verifier", "none", "--until-solved"], "--until-solved waits"),
    "a type that nobody looks at": (
        ["--verifier", "none", "--answer-type", "number"],
        "does not look at --answer-type",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["doctor", "train"])
def test_what_train_would_refuse_doctor_refuses_before_the_model(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = REFUSED[name]
    data, out = file(tmp_path / "rows.jsonl", rows(40)), tmp_path / "run"
    words = [data if word == "ROWS" else word for word in words]
    common = ["opsd", "--task", data, "--model", str(tmp_path / "none"), "--out", str(out)]
    assert main([command, *common, *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last
    assert not out.exists()


def test_a_recipe_without_tokens_has_no_token_budget(tmp_path: Path) -> None:
    said = refusal(
        selfteach.train, "sft", tmp_path / "none", rows(40), token_budget=5, out=tmp_path / "run", **SHORT
    )
    assert "writes no tokens that a token_budget could end" in said


def test_a_task_without_an_annotator_is_refused_before_the_model(tmp_path: Path) -> None:
    said = refusal(selfteach.train, "trace", tmp_path / "none", rows(40), out=tmp_path / "run", **SHORT)
    assert "has no annotator" in said


def test_doctor_looks_at_the_folder_and_at_every_stage(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").write_text("")
    data = file(tmp_path / "rows.jsonl", rows(12))
    words = [
        "sd-zero",
        "--task",
        data,
        "--model",
        tiny,
        "--max-tokens",
        "4",
        "--srt-drafts",
        "8",
        "--srt-steps",
        "2",
    ]
    assert main(["doctor", *words, "--out", str(tmp_path / "run")]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["doctor", *words, "--out", str(tmp_path / "other")]) == 0
    assert "stage 2 of 2: distill" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_held_out_prompts_that_leave_no_room_are_found_before_step_1(tiny: str) -> None:
    long = [{**row, "problem": "x" * 400 + row["problem"]} for row in rows(12)]
    given = {"max_tokens": 4, "eval_max_tokens": 900, "lora_rank": 0}
    said = refusal(rehearse, configured("sft", tiny, long, **given), Silent(), None)
    assert said.startswith("preflight: evaluation: ")
    assert "exceed the model's window of 1024" in said


def test_english_before_an_arena_model_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Rows()
    rehearse(configured("opsd:arena", "arena:table", rows(40), max_tokens=8), shown, None)
    told = [one for one in shown.said if "knows its own world's characters alone" in one]
    assert [one.split(":")[0] for one in told] == ["warn  characters", "warn  teacher"]
    shown.said.clear()
    rehearse(configured("opsd:arena", "arena:table", "table", max_tokens=8), shown, None)
    assert not any("characters alone" in one for one in shown.said)


# --- a run that ends before it has begun ------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0, 1])
def test_a_run_that_failed_before_its_first_step_leaves_the_folder_free(
    when: int, tiny: str, tmp_path: Path
) -> None:
    """``when`` 0: in preflight or the first evaluation; 1: while the first step is collected."""
    out, asked = tmp_path / "run", 0

    def broken(completion: str) -> float:
        nonlocal asked
        asked += 1
        if (out / "metrics.jsonl").exists() >= bool(when):
            raise ValueError("no such luck")
        return 0.0

    said = refusal(selfteach.train, "opsd", tiny, rows(12), reward=broken, prompts=2, out=out, **SHORT)
    assert "no such luck" in said
    assert asked
    assert not out.exists()
    assert selfteach.train("opsd", tiny, rows(12), prompts=2, out=out, **SHORT).finished


def test_a_run_that_failed_later_is_kept(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def broken(completion: str) -> float:
        if (out / "metrics.jsonl").exists() and '"loss"' in (out / "metrics.jsonl").read_text():
            raise ValueError("no such luck")
        return 0.0

    more = {**SHORT, "steps": 3}
    assert "no such luck" in refusal(
        selfteach.train, "opsd", tiny, rows(12), reward=broken, prompts=2, out=out, **more
    )
    assert (out / "config.toml").exists()


# --- rows that lack something -----------------------------------------------------------------------------------------


def test_rows_that_lack_an_answer_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [{**row, "answer": "", "solution": "?"} if i % 3 == 1 else row for i, row in enumerate(rows(40))]
    path = file(tmp_path / "rows.jsonl", bad)
    said = refusal(make_task, path)
    assert "row 2: field 'answer' is missing or empty" in said
    assert "(13 of 40 rows (32%) lack a field: rows 2, 5, 8, 11, 14 …)" in said
    from selfteach.task.opening import TaskOptions

    make_task(path, options=TaskOptions(skip_incomplete_rows=True))
    assert "13 of 40 rows (32%) lack a needed field and are left out: rows 2, 5, 8, 11, 14 …" in caplog.text


@pytest.mark.parametrize("name", ["model", "wandb", "stored"])
def test_what_the_user_has_in_the_folder_survives_a_start(
    name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is written, on data that train and on data that are too few."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious.txt").write_text("mine")
    for count in (12, 2):
        data = tmp_path / f"rows-{count}.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in rows(count)))
        words = ["opsd", "--task", str(data), "--model", tiny, "--out", ".", "--steps", "1"]
        for command in ("train", "doctor"):
            assert main([command, *words]) == 2
            assert f"holds {name} already" in capsys.readouterr().err
    assert (tmp_path / name / "precious.txt").read_text() == "mine"
    assert not (tmp_path / ".lock").exists()
