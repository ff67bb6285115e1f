"""Use from Python: plain objects in, a run out; settings files; runs that go on, also beyond their end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import selfteach
from selfteach.api.progress import Lines
from selfteach.api.training import configured
from selfteach.cli import main
from selfteach.recipes.kit import *
from selfteach.recipes.r01_opsd import OPSD
from selfteach.task.arena import model_folder
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import table_of
from selfteach.training.progress import Silent

FEW: dict[str, Any] = {
    "prompts": 4,
    "max_tokens": 16,
    "samples_every": 0,
    "eval_problems": 4,
    "eval_samples": 1,
}
WORDS = [w for k, v in FEW.items() for w in (f"--{k.replace('_', '-')}", str(v))]


def few(*given: Any, **more: Any) -> selfteach.Result:
    return selfteach.train(*given, **{"steps": 2, "progress": Silent, **FEW, **more})


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


@settings
class Mine(OPSD):
    """A recipe of a test's own."""

    title = "Mine"
    presets = {"paper": {"beta": 0.5}, "arena": {"beta": 1.0, "lr": 1e-3, "clip_entry": None, "lora_rank": 0}}


# --- train ------------------------------------------------------------------------------------------------------


def test_a_run_from_python_is_the_command_lines_run(tmp_path: Path) -> None:
    few("opsd", task="table", out=tmp_path / "python", seed=3, lr=5e-4)
    words = ["train", "opsd", "--task", "table", "--seed", "3", "--lr", "5e-4", "--steps", "2", *WORDS]
    assert main([*words, "--out", str(tmp_path / "shell")]) == 0
    both = [tmp_path / "python", tmp_path / "shell"]
    assert losses(both[0]) == losses(both[1])
    tables = [tomllib.loads((one / "config.toml").read_text()) for one in both]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "recipe", [Mine, Mine(beta=0.25, clip_entry=None, adapter=Adapter())], ids=["class", "object"]
)
def test_a_recipe_may_be_a_class_or_an_object(recipe: Any, tmp_path: Path) -> None:
    run = few(recipe, task="table", out=tmp_path / "run")
    assert run.config["recipe"]["name"].endswith(":Mine")
    assert run.config["recipe"]["preset"] == ("arena" if recipe is Mine else "given")
    assert run.config["recipe"]["beta"] == (1.0 if recipe is Mine else 0.25)
    assert len(losses(run.folder)) == 2


def test_a_model_in_memory_is_trained_as_a_copy(tmp_path: Path) -> None:
    folder = str(model_folder("table"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = few("opsd:arena", model, "table", tokenizer=tokenizer, out=tmp_path / "memory")
    assert all((model.state_dict()[name] == value).all() for name, value in before.items())
    assert losses(run.folder) == losses(few("opsd:arena", folder, "table", out=tmp_path / "folder").folder)
    trained, _ = run.load()
    assert any((trained.state_dict()[name] != value).any() for name, value in before.items())
    with pytest.raises(selfteach.UserError, match="tokenizer"):
        few("opsd:arena", model, "table", out=tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "opds"}, "opsd"),
        ({"recipe": "opsd:v9"}, "v9"),
        ({"recipe": int}, "no recipe"),
        ({"recipe": "opsd", "learning_rate": 1}, "learning_rate"),
        ({"recipe": "opsd", "lr": -1}, "lr must be above 0"),
        ({"recipe": "opsd", "lr": "fast"}, "lr must be a number"),
        ({"recipe": "opsd", "weights": "alive"}, "weights must be"),
        ({"recipe": "opsd", "distil": "all"}, "distill"),
        ({"recipe": "opsd", "eval_every": 1.5}, "eval_every"),
        ({"recipe": "opsd", "seed": -1}, "seed"),
        ({"recipe": "opsd", "task": "tabel"}, "table"),
        ({"recipe": OPSD(), "preset": "v1"}, "object"),
        ({}, "which recipe"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said) as refused:
        configured(**given)
    assert "\n" not in str(refused.value)


def test_a_plain_dataclass_is_no_checked_recipe() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Unchecked(OPSD):
        pass

    with pytest.raises(selfteach.UserError, match="@settings"):
        configured(Unchecked)


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(selfteach.UserError):
        few("opsd", model=str(tmp_path / "nowhere"), task="table", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- settings files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["yaml", "toml", "json"])
def test_a_settings_file_is_overridden_by_knobs(form: str, tmp_path: Path) -> None:
    values = {"recipe": "grpo", "task": "chain", "seed": 7, "per_prompt": 4, "eval_every": 3}
    nested = {"optimization": {"lr": 1e-4, "prompts": 2}}
    text = {
        "json": json.dumps(values | nested),
        "toml": "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items())
        + "\n[optimization]\nlr = 1e-4\nprompts = 2",
        "yaml": "\n".join(f"{k.replace('_', '-')}: {v}" for k, v in values.items())
        + "\noptimization:\n  lr: 1e-4\n  prompts: 2",
    }[form]
    (file := tmp_path / f"mine.{form}").write_text(text)
    config = configured(config=file, lr=2e-4)
    assert (config.recipe_name, config.task, config.seed) == ("grpo", "chain", 7)
    assert (config.recipe.optimization.lr, config.recipe.optimization.prompts) == (2e-4, 2)
    assert (config.recipe.rollouts.per_prompt, config.evaluation.eval_every) == (4, 3)


@pytest.mark.parametrize("recipe", ["opsd", "sdpo:sec4", "avsd", "atesd", "exopd", "grpo:dr-grpo", "mixsd"])
def test_a_runs_record_gives_the_same_settings_again(recipe: str, tmp_path: Path, capsys: Any) -> None:
    words = ["train", recipe, "--task", "table", "--eval-also", "sums", "--seed", "5", "--dry-run"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run").exists()
    (file := tmp_path / "config.toml").write_text(capsys.readouterr().out)
    first, again = configured(recipe, task="table", eval_also=("sums",), seed=5), configured(config=file)
    assert again.recipe == first.recipe
    assert table_of(again) == table_of(first)


@pytest.mark.parametrize(
    ("line", "new", "said"),
    [
        ("kl = 0.0", "kl = 0.0\nkl_strt = 0.9", "recipe.kl_strt, which is unknown"),
        ("max_grad_norm = 1.0", "", "lack recipe.optimization.max_grad_norm"),
        ('task = "table"', "", "lack run.task"),
        ("seed = 0", "", "lack run.task or run.seed"),
        ("[recipe.grpo]", "[recipe.clip]", "lack recipe.grpo"),
    ],
)
def test_a_record_that_was_edited_is_read_whole_or_refused(
    line: str, new: str, said: str, tmp_path: Path, capsys: Any
) -> None:
    main(["train", "grpo", "--task", "table", "--dry-run"])
    text = capsys.readouterr().out
    assert line in text
    (file := tmp_path / "config.toml").write_text(text.replace(line, new))
    with pytest.raises(selfteach.UserError, match=said.replace(".", r"\.")):
        configured(config=file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: opsd\nrun:\n  seed: 7", "seed stands within a table"),
        ("recipe: opsd\nlr: 1\noptimization:\n  lr: 2", "lr is given twice"),
        ("recipe: opsd\nlora-rank: 1\nlora_rank: 2", "lora_rank is given twice"),
        ("recipe: opsd\nsteps: yes", "steps must be a number, got True"),
        ("recipe: opsd\nlr: true", "lr must be a number, got True"),
        ("recipe: opsd\nbetas: [0.9]", "betas has too few values"),
        ("recipe: opsd\nout: 5", "out must be a folder"),
        ("recipe: opsd\nlr: &x {b: *x}", "not valid yaml"),
    ],
)
def test_a_file_of_ones_own_is_read_whole_or_refused(text: str, said: str, tmp_path: Path) -> None:
    (file := tmp_path / "a.yaml").write_text(text)
    with pytest.raises(selfteach.UserError, match=said) as refused:
        configured(config=file, task="table")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_recipes_knob_may_not_have_the_name_of_another_setting() -> None:
    for taken in ("lr", "eval_every", "seed", "task", "model", "verifier"):
        kind = type("Own", (OPSD,), {"__annotations__": {taken: float}, taken: 0.5, "__module__": __name__})
        with pytest.raises(selfteach.UserError, match=f"knob '{taken}' is taken"):
            configured(settings(kind))


def test_a_term_of_no_role_and_a_recipe_of_no_term_are_refused_before_step_1(tmp_path: Path) -> None:
    @settings
    class Typo(Mine):
        def terms(self, stats: Statistics) -> Any:
            yield Match(name="d", target=FromRole("techer"), divergence=ForwardKL())

    @settings
    class Empty(Mine):
        def terms(self, stats: Statistics) -> Any:
            return []

    for kind, said in ((Typo, "reads 'techer', which is no role; did you mean teacher"), (Empty, "no term")):
        with pytest.raises(selfteach.UserError, match=said):
            few(kind, task="table", out=tmp_path / "run")


def test_a_reward_that_no_reference_earns_is_said_before_step_1(tmp_path: Path, capsys: Any) -> None:
    rows = [{"problem": f"{i}+1", "answer": f"{i + 1}"} for i in range(20)]
    model = str(model_folder("table"))
    shown: dict[str, Any] = {
        "progress": Lines,
        "per_prompt": 2,
        "out": tmp_path / "run",
        "steps": 1,
        "prompts": 1,
        "held_out_fraction": 0.05,
    }
    few(
        "grpo:arena",
        model,
        rows,
        reward=lambda completion, answer: float(answer + "!" == completion),
        **shown,
    )
    assert "warn  references: 0 of 16 reference answers" in capsys.readouterr().err
    few(
        "grpo:arena",
        model,
        rows,
        reward=lambda completion, answer: float(answer in completion),
        **{**shown, "out": tmp_path / "b"},
    )
    assert "ok    references: 16 of 16 reference answers" in capsys.readouterr().err


def test_an_object_that_is_not_the_runs_is_refused(tmp_path: Path, capsys: Any) -> None:
    run = few(OPSD(beta=1.0, clip_entry=None, adapter=Adapter()), task="table", out=tmp_path / "run")
    with pytest.raises(selfteach.UserError, match="the recipe given"):
        run.resume(recipe=OPSD(beta=0.25, clip_entry=None, adapter=Adapter()), progress=Silent)


def test_none_is_a_word_in_settings_files(tmp_path: Path) -> None:
    (file := tmp_path / "a.yaml").write_text("recipe: opsd\nclip_entry: none\nmax_grad_norm: None\n")
    config = configured(config=file, task="table")
    assert config.recipe.clip_entry is None  # type: ignore[attr-defined]
    assert config.recipe.optimization.max_grad_norm is None
    (file := tmp_path / "b.yaml").write_text("recipe: grpo\nscale: none\n")
    assert configured(config=file, task="table").recipe.grpo.scale == "none"  # type: ignore[attr-defined]
    for text, said in (
        ("seed: x", "seed must be"),
        ("preset: 5", "preset must be a name"),
        ("seed: 1.5", "seed must"),
    ):
        (file := tmp_path / "c.yaml").write_text(f"recipe: opsd\n{text}\n")
        with pytest.raises(selfteach.UserError, match=said):
            configured(config=file, task="table")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "recipe: [", "not valid yaml"),
        ("a.yaml", "- 1", "no table"),
        ("a.yaml", "recipe: opsd\nlearning_rate: 1", "learning_rate"),
        ("a.yaml", "recipe: opsd\nlr: !!python/object/apply:os.system ['true']", "not valid yaml"),
        ("a.toml", "[about]\nformat = 1\n[recipe]\nname = 'opsd'", "earlier"),
        ("a.txt", "recipe: opsd", ".toml"),
        ("a.json", "{", "not valid json"),
    ],
)
def test_a_broken_settings_file_is_refused_in_one_line(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(selfteach.UserError, match=said):
        configured(config=tmp_path / name)
    with pytest.raises(selfteach.UserError, match="cannot be read"):
        configured(config=tmp_path / "none.yaml")


def test_settings_of_another_recipe_or_preset_are_not_mixed(tmp_path: Path, capsys: Any) -> None:
    main(["train", "opsd", "--task", "table", "--dry-run"])
    (file := tmp_path / "config.toml").write_text(capsys.readouterr().out)
    with pytest.raises(selfteach.UserError, match="recipe opsd, not grpo"):
        configured("grpo", config=file)
    with pytest.raises(selfteach.UserError, match="preset arena"):
        configured("opsd", preset="v1", config=file)


# --- going on ---------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_its_folder_alone_and_beyond_its_end(tmp_path: Path) -> None:
    whole = few("opsd", task="table", out=tmp_path / "whole", steps=4)
    short = few("opsd", task="table", out=tmp_path / "short", steps=2)
    assert main(["train", "--resume", "--out", str(short.folder), "--steps", "3"]) == 0
    longer = short.resume(steps=4, progress=Silent)
    assert losses(longer.folder) == losses(whole.folder)
    weights = [(one.folder / "model/model.safetensors").read_bytes() for one in (whole, longer)]
    assert weights[0] == weights[1]
    assert longer.summary["steps"] == 4
    assert longer.config["recipe"]["optimization"]["steps"] == 4


@pytest.mark.parametrize("every", [0, 2])
def test_a_raised_run_leaves_what_a_longer_one_would(every: int, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"task": "table", "eval_every": every, "samples_every": 2, "checkpoint_every": 2}
    whole = few("opsd", out=tmp_path / "whole", **{**asked, "steps": 5})
    raised = few("opsd", out=tmp_path / "raised", **{**asked, "steps": 3}).resume(steps=5, progress=Silent)
    rows, samples = (
        [[drop_clock(row) for row in read_rows(one.folder / name)] for one in (whole, raised)]
        for name in ("metrics.jsonl", "samples.jsonl")
    )
    assert rows[0] == rows[1]
    assert samples[0] == samples[1]


def drop_clock(row: dict[str, Any]) -> dict[str, Any]:
    timed = ("seconds", "memory", "tokens_per_second")
    return {name: value for name, value in row.items() if not name.startswith(timed)}


def test_a_raised_run_that_was_killed_is_unfinished_and_ends_as_if_it_was_not(tmp_path: Path) -> None:
    run = few("opsd", task="table", out=tmp_path / "run", steps=2)
    code = (
        "import os, sys, selfteach\n"
        "from selfteach.training.rundir import RunFolder\n"
        "write = RunFolder.metrics\n"
        "RunFolder.metrics = lambda self, row: (write(self, row), os.kill(os.getpid(), 9))\n"
        "selfteach.train(resume=True, out=sys.argv[1], steps=4)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True)
    assert done.returncode == -9
    assert not run.finished
    ended = run.resume(progress=Silent)
    whole = few("opsd", task="table", out=tmp_path / "whole", steps=4)
    assert [drop_clock(row) for row in ended.metrics] == [drop_clock(row) for row in whole.metrics]
    assert (ended.folder / "checkpoints/step-4").is_dir()


def test_steps_are_not_raised_where_a_controller_looks_at_their_share(tmp_path: Path) -> None:
    run = few("atesd", task="trail", out=tmp_path / "run", probe_examples=2)
    with pytest.raises(selfteach.UserError, match="started with other values"):
        run.resume(steps=4, progress=Silent)


def test_a_run_trains_whatever_mode_its_caller_is_in(tmp_path: Path) -> None:
    expected = losses(few("opsd", task="table", out=tmp_path / "plain").folder)
    for name, mode in (("no_grad", torch.no_grad()), ("inference", torch.inference_mode())):
        with mode:
            run = few("opsd", task="table", out=tmp_path / name)
        assert losses(run.folder) == expected


def test_a_model_in_memory_is_asked_for_again(tmp_path: Path) -> None:
    folder = str(model_folder("table"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    run = few("opsd:arena", model, "table", tokenizer=tokenizer, out=tmp_path / "run")
    with pytest.raises(selfteach.UserError, match="model was given from Python"):
        selfteach.load_run(run.folder).resume(progress=Silent)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    with pytest.raises(selfteach.UserError, match=r"inputs\.model"):
        run.resume(steps=3, progress=Silent)


def test_only_what_may_grow_grows(tmp_path: Path) -> None:
    run = few("opsd", task="table", out=tmp_path / "run", schedule="linear")
    for knobs in ({"steps": 4}, {"lr": 1.0}, {"steps": 1}):
        with pytest.raises(selfteach.UserError, match="started with other values"):
            run.resume(progress=Silent, **knobs)
    with pytest.raises(selfteach.UserError, match="no run to resume"):
        selfteach.train(resume=True, out=tmp_path / "none")


def test_a_run_does_not_go_on_with_other_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{i}+1", "solution": f"{i}+1={i + 1}", "answer": str(i + 1)} for i in range(20)]
    files = {
        "task": ("rows.jsonl", "\n".join(map(json.dumps, rows))),
        "held_out_file": ("held.jsonl", json.dumps({"problem": "40+1", "solution": "41", "answer": "41"})),
        "reward": ("mine.py", "def score(completion):\n    return 1.0\n"),
        "recipe": ("method.py", MY_RECIPE),
        "token_classes": ("classes.json", '{"digit": "[0-9]"}'),
    }
    for name, text in files.values():
        Path(name).write_text(text)
    shutil.copytree(model_folder("table"), "model")
    run = few(
        "method.py:Mine", "model", "rows.jsonl", reward="mine.py:score", held_out_file="held.jsonl",
        token_classes="classes.json", out="run", steps=1, prompts=1,
    )  # fmt: skip
    assert run.config["inputs"].keys() == {*files, "model"}
    for role, (name, text) in {**files, "model": ("model/config.json", "")}.items():
        before = Path(name).read_text()
        Path(name).write_text(text + "\n" if text else before + " ")
        with pytest.raises(selfteach.UserError, match=rf"inputs\.{role}: "):
            run.resume(progress=Silent)
        Path(name).write_text(before)
    assert run.resume(progress=Silent, steps=2).summary["steps"] == 2


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_whose_reader_has_gone_goes_on_to_its_end(stream: str, tmp_path: Path) -> None:
    words = ["train", "opsd", "--task", "table", "--steps", "12", *WORDS, "--out", str(tmp_path / "run")]
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: write}
    done = subprocess.run([sys.executable, "-m", "selfteach", *words], **streams)  # type: ignore[call-overload]
    os.close(write)
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 12
    assert done.returncode in (0, 1)


def test_version_and_help_load_no_library() -> None:
    code = "import sys; from selfteach.cli import main; main([sys.argv[1]]); print('torch' in sys.modules)"
    for word in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("False\n")


def test_a_run_of_objects_goes_on_with_the_same_ones_alone(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(20)]
    model = str(model_folder("table"))

    def score(completion: str) -> float:
        return 1.0

    run = few(Mine, model, rows, reward=score, out=tmp_path / "run")
    assert run.config["run"]["given"] == ["task", "reward"] or "recipe" in run.config["run"]["given"]
    assert run.resume(steps=3, progress=Silent).summary["steps"] == 3
    loaded = selfteach.load_run(run.folder)
    with pytest.raises(selfteach.UserError, match="was given from Python: pass it again"):
        loaded.resume(steps=4, progress=Silent)
    same: dict[str, Any] = {"recipe": Mine, "task": rows, "reward": score, "progress": Silent}
    assert loaded.resume(steps=4, **same).summary["steps"] == 4
    other = [{**row, "problem": row["problem"] + "?"} for row in rows]
    with pytest.raises(selfteach.UserError, match=r"inputs\.task"):
        loaded.resume(steps=5, **{**same, "task": other})
    with pytest.raises(selfteach.UserError, match=r"inputs\.reward"):
        loaded.resume(steps=5, **{**same, "reward": lambda completion: 0.0})


# --- result, evaluate, compare ----------------------------------------------------------------------------------


def test_a_result_shows_itself_and_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = few("opsd", task="table", out="run")
    assert run.before is not None
    assert run.curve("loss") == [(i + 1, x) for i, x in enumerate(losses(run.folder))]
    text = repr(run)
    assert "opsd, preset arena, on table" in text
    assert "held-out accuracy" in text
    html = run._repr_html_()
    assert "<svg" in html
    assert 'href="./run/report.html"' in html
    assert "<script" not in html
    assert Path("run/report.html").exists()
    again = selfteach.load_run("run")
    assert repr(again) == text
    assert len(run.metrics) == len(again.frame()) if has_pandas() else True
    with pytest.raises(selfteach.UserError, match="no folder"):
        selfteach.load_run("nowhere")


def test_what_a_run_is_called_cannot_break_its_card(tmp_path: Path) -> None:
    run = few("opsd", task="table", out=tmp_path / "<b>run</b>")
    assert "<b>" not in run._repr_html_()


def test_evaluate_takes_a_run_a_folder_and_a_model(tmp_path: Path) -> None:
    run = few("opsd", task="table", out=tmp_path / "run")
    asked: dict[str, Any] = {"problems": 8, "samples": 1, "seed": 2, "max_tokens": 16}
    first = selfteach.evaluate(run.folder, "table", **asked)
    model, tokenizer = run.load()
    assert first.result == selfteach.evaluate(model, "table", tokenizer=tokenizer, **asked).result
    assert "table" in repr(first)
    first.save(tmp_path / "answers.json")
    saved = json.loads((tmp_path / "answers.json").read_text())
    assert len(saved["answers"]) == 8
    assert saved["result"]["accuracy"] == first.accuracy
    with pytest.raises(selfteach.UserError, match="problems"):
        selfteach.evaluate(task="table", problems=0)


def test_evaluate_knows_its_settings_and_the_runs_task_and_split(tmp_path: Path) -> None:
    run = few("gkd", out=tmp_path / "run", teacher="arena:tutor-large")
    found = selfteach.evaluate(run, problems=2, samples=1, max_tokens=16)
    assert found.task == "tutor"
    for wrong, said in (
        ({"problem": 8}, "did you mean problems"),
        ({"n": 4}, "no setting 'n'"),
        ({"view": "sol"}, "view"),
    ):
        with pytest.raises(selfteach.UserError, match=said):
            selfteach.evaluate(run, **wrong)
    rows = [{"problem": f"{i}+1", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(40)]
    small: dict[str, Any] = {"problems": 40, "samples": 1, "max_tokens": 4}
    half = selfteach.evaluate(run, rows, held_out_fraction=0.5, **small)
    assert (
        half.result.problems > selfteach.evaluate(run, rows, held_out_fraction=0.1, **small).result.problems
    )


def test_a_worlds_name_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(selfteach.UserError, match="'table' is a task, not a model"):
        configured("opsd", "table")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(selfteach.UserError, match="no such folder"):
        selfteach.evaluate("runs/nothere", "table")


def test_a_comparison_is_made_anew_where_a_recipe_or_a_reward_has_changed(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}+1", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(20)]
    asked: dict[str, Any] = {
        **FEW,
        "seeds": 1,
        "steps": 1,
        "points": 1,
        "progress": Silent,
        "out": tmp_path / "both",
    }
    model = str(model_folder("table"))

    def kind(factor: float) -> type[OPSD]:
        @settings
        class Own(Mine):
            def terms(self, stats: Statistics) -> Any:
                yield Match(
                    name="d",
                    target=FromRole(TEACHER),
                    divergence=ReverseKL(),
                    coefficient=1.0 if factor else 3.0,
                )

            if factor > 1:

                def active(self, step: int) -> Any:
                    return super().active(step)

        return Own

    selfteach.compare({"a": kind(1.0)}, model, rows, reward=lambda completion: 1.0, **asked)
    selfteach.compare({"a": kind(1.0)}, model, rows, reward=lambda completion: 1.0, **asked)
    for recipe, answers, reward in (
        (kind(2.0), rows, lambda completion: 1.0),
        (kind(1.0), rows[1:] + rows[:1], lambda completion: 1.0),
        (kind(1.0), rows, lambda completion: 0.0),
    ):
        with pytest.raises(selfteach.UserError, match="holds a run with other settings"):
            selfteach.compare({"a": recipe}, model, answers, reward=reward, **asked)


def test_a_run_that_is_told_to_end_is_saved(tmp_path: Path) -> None:
    words = ["train", "opsd", "--task", "table", "--steps", "400", *WORDS, "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "selfteach", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 10/"):
            process.terminate()
    assert process.wait() == 130
    assert any((tmp_path / "run/checkpoints").iterdir())


def test_a_comparison_from_python_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        **FEW,
        "seeds": 2,
        "steps": 2,
        "points": 1,
        "progress": Silent,
        "out": tmp_path / "both",
    }
    found = selfteach.compare({"a": "opsd", "b": Mine}, task="table", **asked)
    assert list(found.runs) == ["a", "b"]
    assert [len(runs) for runs in found.runs.values()] == [2, 2]
    assert found.page.exists()
    assert "a " in repr(found)
    assert "<table>" in found._repr_html_()
    before = {path: path.read_bytes() for path in tmp_path.rglob("metrics.jsonl")}
    (tmp_path / "both/b-1/summary.json").unlink()
    again = selfteach.compare({"a": "opsd", "b": Mine}, task="table", **asked)
    assert {path: path.read_bytes() for path in tmp_path.rglob("metrics.jsonl")} == before
    assert [row["recipe"] for row in again.rows()] == ["a", "b"]
    with pytest.raises(selfteach.UserError, match="other settings"):
        selfteach.compare({"a": "opsd", "b": Mine}, task="table", **{**asked, "lr": 1.0})
    for changed in ({"a": "opsd", "b": OPSD(beta=0.5)}, {"a": "opsd", "b": "grpo:arena"}):
        with pytest.raises(selfteach.UserError, match="holds a run with other settings"):
            selfteach.compare(changed, task="table", **asked)  # type: ignore[arg-type]
    with pytest.raises(selfteach.UserError, match="one folder"):
        selfteach.compare({"a b": "opsd", "a-b": Mine}, task="table", **{**asked, "out": tmp_path / "labels"})
    for name in ("seed", "eval_every", "token_budget"):
        with pytest.raises(selfteach.UserError, match=f"compare sets {name}"):
            selfteach.compare(["opsd", "grpo"], task="table", **{**asked, name: 1})
    with pytest.raises(selfteach.UserError, match="several recipes"):
        selfteach.compare("opsd", task="table")
    with pytest.raises(selfteach.UserError, match="two recipes"):
        selfteach.compare(["opsd", "opsd"], task="table", **asked)


MY_RECIPE = """
from selfteach.recipes.kit import *

@settings
class Mine(Recipe):
    presets = {"paper": {}, "arena": {"max_tokens": 16}}

    @property
    def teachers(self):
        return {TEACHER: Role(Frozen(), Solution())}

    def terms(self, stats):
        yield Match(name="distill", target=FromRole(TEACHER), divergence=ForwardKL())
"""


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?s)```python\n(.*?)```", text)
    assert len(blocks) == 2
    (tmp_path / "my.py").write_text(MY_RECIPE)
    monkeypatch.chdir(tmp_path)
    small = {**FEW, "prompts": 2, "progress": Silent}
    train, compare = selfteach.train, selfteach.compare
    monkeypatch.setattr(
        selfteach, "train", lambda *a, **k: train(*a, **{**k, **small, "steps": 2}), raising=False
    )
    monkeypatch.setattr(
        selfteach,
        "compare",
        lambda *a, **k: compare(*a, **{**k, **small, "steps": 2, "points": 1}),
        raising=False,
    )
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["run"].finished
    assert list(names["found"].runs) == ["opsd", "grpo", "mine"]


def has_pandas() -> bool:
    from importlib.util import find_spec

    return find_spec("pandas") is not None
