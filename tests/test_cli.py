"""The command line as a user meets it: what works, and one line for what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfteach.cli import COMMANDS, main
from selfteach.cli.train import configured
from selfteach.recipes import METHODS, RECIPES, preset_of
from selfteach.recipes.knobs import documented
from tiny import tiny_model_folder

SMALL = ["--steps", "2", "--prompts", "4", "--max-tokens", "8", "--eval-problems", "4", "--eval-samples", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model_folder(tmp_path_factory.mktemp("model")))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail, and return the one line it says."""
    assert main(list(words)) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    assert said.startswith("selfteach: ")
    return said


def test_a_run_goes_from_words_to_a_report_and_a_model_that_can_be_evaluated(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "opsd", "--task", "table", "--model", model, "--out", str(out), *SMALL]) == 0
    for name in ("config.toml", "metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "model"):
        assert (out / name).exists(), name
    capsys.readouterr()
    assert (
        main(["eval", "--task", "table", "--model", str(out / "model"), "--problems", "4", "--samples", "1"])
        == 0
    )
    assert "accuracy" in capsys.readouterr().out


def test_a_lora_run_saves_an_adapter_that_can_be_evaluated_and_merged(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [
        "train",
        "opsd",
        "--task",
        "table",
        "--model",
        model,
        "--lora-rank",
        "4",
        "--out",
        str(out),
        *SMALL,
    ]
    assert main(words) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if "--merge" in line)
    export = said[said.index("export") :].partition(" makes")[0].replace("FOLDER", str(tmp_path / "whole"))
    assert main(export.split()) == 0
    assert (tmp_path / "whole" / "model.safetensors").is_file()
    assert (
        main(["eval", "--task", "table", "--model", str(out / "model"), "--problems", "4", "--samples", "1"])
        == 0
    )


def test_a_prefix_of_worked_turns_is_a_privilege(model: str, tmp_path: Path) -> None:
    turns = tmp_path / "turns.json"
    turns.write_text(
        json.dumps([{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "1+1=2;#2"}])
    )
    words = ["train", "opsd", "--task", "table", "--model", model, "--view", "prefix", "--prefix", str(turns)]
    assert main([*words, "--out", str(tmp_path / "run"), *SMALL]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    shown = next(row["teacher_prompts"]["teacher"] for row in rows if row["phase"] == "train")
    assert "1+1=2;#2" in shown


def test_the_doctor_checks_without_training(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "opsd", "--task", "table", "--model", model, "--max-tokens", "8"]) == 0
    seen = capsys.readouterr()
    assert "privilege" in seen.err
    assert "ready to train" in seen.out


def test_recipes_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    for name in RECIPES:
        assert main(["recipes", name, "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["name"] == name
        assert all(knob["meaning"] for knob in described["knobs"].values())
        assert {"teachers", "presets", "formula", "source"} <= described.keys()


def test_a_recipe_is_described_to_the_letter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what stands in brackets, as shapes do, which rich takes for a style unless told."""
    monkeypatch.setenv("COLUMNS", "2000")
    for name, kind in METHODS.items():
        assert main(["recipes", name]) == 0
        shown = capsys.readouterr().out
        assert not [meaning for _, meaning in documented(preset_of(kind)).values() if meaning not in shown]


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_lists_every_knob_of_a_recipe(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", recipe, "--help"])
    assert not stopped.value.code
    short = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", recipe, "--help-all"])
    whole = capsys.readouterr().out
    for flag in (
        "--lr",
        "--temperature",
        "--task",
        "--out",
        "--resume",
        "--config",
        "--model",
        "--eval-every",
    ):
        assert flag in short
    for flag in ("--checkpoint-every", "--held-out-fraction"):
        assert flag in whole
        assert flag not in short
    assert "--help-all" in short


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("train", "doctor")])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert not stopped.value.code
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean train"),
        (["train"], "which recipe"),
        (["train", "opds"], "or opsd or"),
        (["train", "opsd", "--preset", "v4"], "no preset 'v4'"),
        (["train", "opsd", "--clip-entri", "1"], "--clip-entry"),
        (["train", "opsd", "--lr", "fast"], "--lr"),
        (["train", "opsd", "--steps", "-1"], "steps"),
        (["train", "opsd", "--prompts", "0"], "prompts"),
        (["train", "opsd", "--betas", "2", "2"], "betas"),
        (["train", "opsd", "--betas", "-1", "0.9"], "betas"),
        (["train", "opsd", "--weight-decay", "-1"], "--weight-decay"),
        (["train", "opsd", "--seed", "99999999999999999999"], "seed"),
        (["train", "grpo", "--prompts", "4", "--minibatches", "9"], "minibatches must be at most prompts"),
        (["train", "opsd", "--temperature", "0"], "temperature"),
        (["train", "opsd", "--loss", "mse"], "mse"),
        (["train", "opsd", "--micro-batch", "0"], "--micro-batch"),
        (["train", "opsd", "--task", "tabel"], "did you mean table"),
        (["train", "opsd", "--task", "gym:chain_summ", "--model", "x"], "chain_sum"),
        (["train", "opsd", "--task", "gym:chain_sum"], "--model"),
        (["train", "opsd", "--model", "no/such/folder"], "no/such/folder"),
        (["train", "opsd", "--resume", "--out", "no-such-run"], "no run to resume"),
        (["train", "opsd", "--view", "prefix"], "--prefix"),
        (["train", "opsd", "--view", "prefix", "--prefix", "none.json"], "none.json"),
        (["train", "grpo", "--per-prompt", "1"], "--per-prompt"),
        (["eval", "--task", "gym:chain_sum"], "--model"),
        (["eval", "--view", "prefix"], "--prefix"),
        (["compare", "opsd", "opds"], "or opsd or"),
        (["compare", "opsd", "--seeds", "0"], "seeds"),
        (["recipes", "opds"], "or opsd or"),
        (["report", "no/such/run"], "no/such/run"),
        (["fetch", "llama"], "llama"),
        (["arena", "rebuild", "tabel"], "tabel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_line_that_names_it(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert said in refused(capsys, *words)


def test_a_row_without_a_needed_field_names_file_row_and_field(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{i}+1", "solution": f"\\boxed{{{i + 1}}}"} for i in range(20)] + [{"problem": "7"}]
    Path("data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    said = refused(capsys, "train", "opsd", "--task", "data.jsonl", "--model", model, "--out", "run")
    assert "data.jsonl" in said
    assert "21" in said
    assert "solution" in said


def test_a_start_that_failed_leaves_a_folder_the_corrected_command_can_use(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, "train", "opsd", "--task", "none.jsonl", "--model", model, "--out", "run")
    assert main(["train", "opsd", "--task", "table", "--model", model, "--out", "run", *SMALL]) == 0


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "opds", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_comparison_tables_every_recipe_and_is_not_repeated(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["compare", "opsd", "sft", "--model", model, "--seeds", "1", "--steps", "2", "--points", "1"]
    words += ["--eval-problems", "4", "--eval-samples", "1", "--out", "both"]
    rest = ["--", "--prompts", "4", "--max-tokens", "8"]
    assert main([*words, *rest]) == 0
    results = json.loads(Path("both/results.json").read_text())
    assert set(results["recipes"]) == {"opsd", "sft"}
    assert results["recipes"]["sft"]["spent"] == 0
    assert results["recipes"]["opsd"]["spent"] > 0
    assert Path("both/compare.html").exists()
    before = Path("both/opsd-0/metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert main([*words, *rest]) == 0
    assert "finished before" in capsys.readouterr().out
    assert Path("both/opsd-0/metrics.jsonl").read_bytes() == before
    assert main([*words, "--steps", "3", *rest]) == 2


def test_none_is_a_word_where_it_is_a_choice_and_nothing_elsewhere() -> None:
    config, _ = configured(["grpo", "--scale", "none", "--max-grad-norm", "none"])
    assert config.recipe.grpo.scale == "none"  # type: ignore[attr-defined]
    assert config.recipe.optimization.max_grad_norm is None
