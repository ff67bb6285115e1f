"""``selfteach eval``: whole benchmarks, and runs and checkpoints measured exactly as they were in training."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import selfteach
from selfteach.api.evaluating import EvalSettings
from selfteach.api.training import configured
from selfteach.cli import main
from selfteach.cli.evaluate import own_names
from selfteach.cli.train import run_of as words_of
from selfteach.policy.room import Room
from selfteach.task.options import TaskOptions, yielding
from selfteach.task.outcome import OUTCOMES
from selfteach.training.config import FORMAT, Evaluation
from selfteach.training.progress import Silent
from selfteach.training.text.evaluation import Answered
from tiny import tiny_model_folder

STEPS = (1, 2)


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {"problem": f"{i}+1", "solution": f"\\boxed{{{i + 1}}}", "answer": f"{i + 1}"}
        for i in range(first, first + count)
    ]


def lines(path: Path, found: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all weights and of LoRA on world "table", evaluated and saved every step; and one of a file."""
    home = tmp_path_factory.mktemp("runs")
    asked: dict[str, Any] = {
        "steps": 2, "prompts": 4, "max_tokens": 48, "eval_every": 1, "checkpoint_every": 1, "keep": 9, "seed": 3,
        "eval_problems": 9, "eval_samples": 3, "eval_temperature": 0.9, "eval_top_p": 0.95, "eval_top_k": 12,
        "sample_batch": 5, "samples_every": 0, "progress": Silent,
    }  # fmt: skip
    selfteach.train("opsd", task="table", out=home / "full", lr=1e-2, **asked)
    selfteach.train("opsd", task="table", out=home / "lora", lr=1e-2, lora_rank=4, **asked)
    model = tiny_model_folder(home / "tiny")
    data = lines(home / "data.jsonl", rows(40))
    few = {**asked, "steps": 1, "eval_every": 0, "eval_max_tokens": 8, "eval_problems": 6, "max_tokens": 12}
    selfteach.train(
        "sft", model, data, out=home / "file", held_out_fraction=0.3, system_prompt="Add.", lora_rank=2, **few
    )
    return home


@pytest.mark.parametrize("name", ["full", "lora", "file"])
def test_a_runs_own_last_evaluation_comes_out_again_to_the_digit(name: str, home: Path) -> None:
    run = selfteach.load_run(home / name)
    found = selfteach.evaluate(home / name)
    measured = {key: value for key, value in run.summary.items() if key.startswith("eval/")}
    assert {**found.result.headline(), **found.result.row()} == measured
    assert found.estimates[0].value == run.after
    assert selfteach.evaluate(run).result == found.result


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_checkpoint_is_measured_as_its_run_was_at_that_step(name: str, home: Path) -> None:
    run = selfteach.load_run(home / name)
    for step in STEPS:
        found = selfteach.evaluate(home / name / "checkpoints" / f"step-{step}")
        for metric, value in found.result.row().items():
            assert dict(run.curve(metric))[step] == value, metric
        assert f"step {step}" in found.model
    first, last = (dict(run.curve("eval/length"))[step] for step in STEPS)
    assert first != last, "the test would not see another checkpoint"


def test_every_setting_of_eval_has_a_name_and_a_default_in_train() -> None:
    train, mine = Evaluation(), EvalSettings()
    for name in ("samples", "temperature", "top_p", "top_k", "max_tokens", "thinking"):
        assert getattr(train, f"eval_{name}") == getattr(mine, name), name
    assert own_names(["--eval-problems", "3", "--eval-samples=2", "--split", "test"]) == [
        "--problems", "3", "--samples=2", "--split", "test",
    ]  # fmt: skip
    with pytest.raises(selfteach.UserError, match="samples is given twice"):
        selfteach.evaluate(task="table", samples=1, eval_samples=2)


def test_eval_thinking_overrides_the_students(home: Path) -> None:
    config = (home / "full" / "config.toml").read_text()
    for student, own, wanted in (("true", "none", True), ("true", "false", False), ("none", "true", True)):
        other = home / f"thinking-{student}-{own}"
        other.mkdir()
        text = config.replace('student_thinking = "none"', f"student_thinking = {quoted(student)}")
        (other / "config.toml").write_text(
            text.replace('eval_thinking = "none"', f"eval_thinking = {quoted(own)}")
        )
        (other / "model").mkdir()
        from selfteach.api.evaluating import drafted

        assert drafted(other).how.thinking is wanted


def quoted(word: str) -> str:
    return '"none"' if word == "none" else word


# --- what is asked ------------------------------------------------------------------------------------------------


def test_of_another_file_every_row_is_asked_in_its_order(home: Path, tmp_path: Path) -> None:
    data = lines(tmp_path / "aime.jsonl", [*rows(5, 100), *rows(2, 100)])
    found = selfteach.evaluate(home / "tiny", data, max_tokens=4, samples=2)
    keys = [one.example.key for one in found.answers[::2]]
    assert keys == [f"aime.jsonl:{i}" for i in range(1, 8)]
    assert (found.part, found.result.problems) == ("all", 7)
    few = selfteach.evaluate(home / "tiny", data, max_tokens=4, samples=1, problems=3)
    assert [one.example.key for one in few.answers] == keys[:3]
    assert selfteach.evaluate(home / "tiny", data, max_tokens=4, samples=1, problems=30).result.problems == 7


def test_of_the_runs_own_file_the_held_out_rows_are_asked(home: Path) -> None:
    own = selfteach.evaluate(home / "file", str(home / "data.jsonl"))
    assert own.part == "held-out"
    assert own.result == selfteach.evaluate(home / "file").result
    every = selfteach.evaluate(home / "file", rows="all")
    assert (every.part, every.result.problems) == ("all", 40)
    held_out = {one.example.key for one in own.answers}
    assert held_out < {one.example.key for one in every.answers}


def test_a_runs_way_of_asking_holds_for_another_file_its_columns_do_not(home: Path, tmp_path: Path) -> None:
    data = lines(tmp_path / "other.jsonl", rows(3))
    found = selfteach.evaluate(home / "file", data)
    assert found.answers[0].example.prompt[0] == {"role": "system", "content": "Add."}
    assert (found.part, found.how["max_tokens"], found.result.k) == ("all", 8, 3)
    bare = selfteach.evaluate(home / "file", data, system_prompt=None)
    assert bare.answers[0].example.prompt[0]["role"] == "user"


def test_a_held_out_option_asks_for_the_held_out_part(home: Path, tmp_path: Path) -> None:
    data = lines(tmp_path / "data.jsonl", rows(40))
    few: dict[str, Any] = {"max_tokens": 4, "samples": 1}
    part = selfteach.evaluate(home / "tiny", data, held_out_fraction=0.3, **few)
    assert part.part == "held-out"
    assert 1 < part.result.problems < 40
    itself = selfteach.evaluate(home / "tiny", data, held_out_file=data, **few)
    assert itself.result.problems == 40
    with pytest.raises(selfteach.UserError, match="held_out_file says what is held out, but all rows"):
        selfteach.evaluate(home / "tiny", data, held_out_file=data, rows="all", **few)
    with pytest.raises(selfteach.UserError, match="has no rows"):
        selfteach.evaluate(task="table", rows="all", **few)


def test_rows_in_memory_are_a_benchmark_too(home: Path) -> None:
    found = selfteach.evaluate(home / "tiny", rows(3), max_tokens=4, samples=1)
    assert (found.part, found.result.problems) == ("all", 3)
    reward = selfteach.evaluate(
        home / "tiny", rows(3), reward=lambda completion: 1.0, max_tokens=4, samples=1
    )
    assert reward.accuracy == 1


def test_a_run_on_rows_from_python_is_measured_on_what_it_held_out_of_them(
    tmp_path: Path, home: Path
) -> None:
    run = selfteach.train(
        "sft", home / "tiny", rows(40), out=tmp_path / "run", steps=1, prompts=2, max_tokens=12,
        held_out_fraction=0.3, eval_problems=5, eval_samples=1, samples_every=0, progress=Silent,
    )  # fmt: skip
    with pytest.raises(selfteach.UserError, match="was given from Python: say which one"):
        selfteach.evaluate(run)
    again = selfteach.evaluate(run, rows(40))
    assert (again.part, again.accuracy) == ("held-out", run.after)
    assert selfteach.evaluate(run, rows(7)).part == "all"


def test_a_hub_dataset_is_named_with_its_split(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path: str, **how: Any) -> Any:
        asked.append((path, how))
        return datasets.Dataset.from_list(rows(4 if how["split"] == "test" else 9))

    monkeypatch.setattr(datasets, "load_dataset", load)
    few: dict[str, Any] = {"max_tokens": 4, "samples": 1}
    named = selfteach.evaluate(home / "tiny", "hf:some/set?split=test&subset=main", **few)
    option = selfteach.evaluate(home / "tiny", "hf:some/set", split="test", subset="main", **few)
    assert asked[0] == asked[1] == ("some/set", {"name": "main", "split": "test", "revision": None})
    assert named.result.problems == option.result.problems == 4
    assert selfteach.evaluate(
        home / "tiny", "hf:some/set", held_out_file="hf:some/set?split=test", **few
    ).part == ("held-out")
    with pytest.raises(selfteach.UserError, match="did you mean split"):
        selfteach.evaluate(home / "tiny", "hf:some/set?splt=test")
    # A run on one split: the other is a benchmark, read as the run reads its own.
    run = selfteach.train(
        "sft", home / "tiny", "hf:some/set", out=home / "hub", steps=1, prompts=2, max_tokens=12, eval_samples=1,
        samples_every=0, progress=Silent,
    )  # fmt: skip
    assert selfteach.evaluate(run).part == "held-out"
    for task, more in (("hf:some/set", {"split": "test"}), ("hf:some/set?split=test", {})):
        found = selfteach.evaluate(run, task, **more)
        assert (found.part, found.result.problems) == ("all", 4)


# --- which model --------------------------------------------------------------------------------------------------


def test_an_adapter_whose_base_has_moved_finds_it_again(home: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "moved", tmp_path / "adapter"
    shutil.copytree(home / "tiny", base)
    shutil.copytree(home / "file" / "model", adapter)
    data = lines(tmp_path / "data.jsonl", rows(4))
    few: dict[str, Any] = {"max_tokens": 6, "samples": 2}
    there = selfteach.evaluate(adapter, data, **few)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "/gone/tiny"})
    )
    with pytest.raises(selfteach.UserError, match=r"'/gone/tiny': there is no such folder.*--base"):
        selfteach.evaluate(adapter, data, **few)
    assert selfteach.evaluate(adapter, data, base=base, **few).answers == there.answers
    with pytest.raises(selfteach.UserError, match="is no LoRA adapter"):
        selfteach.evaluate(base, data, base=base, **few)
    at_a_step = home / "file" / "checkpoints" / "step-1"
    assert selfteach.evaluate(at_a_step, base=base).result == selfteach.evaluate(home / "file").result


def test_what_is_no_checkpoint_is_refused_with_what_there_is(home: Path, tmp_path: Path) -> None:
    run = home / "full"
    for place in (run / "checkpoints", run / "checkpoints" / "step-3"):
        with pytest.raises(selfteach.UserError, match=r"step-1, .*step-2"):
            selfteach.evaluate(place)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("model"))
    with pytest.raises(selfteach.UserError, match=r"no trained model yet.*step-2"):
        selfteach.evaluate(unfinished)
    with pytest.raises(selfteach.UserError, match=r"is a checkpoint of a run: selfteach export"):
        selfteach.train("opsd", run / "checkpoints" / "step-1", "table", out=tmp_path / "x", progress=Silent)
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    weights = damaged / "checkpoints" / "step-1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(selfteach.UserError, match=r"is damaged \(weights\.safetensors"):
        selfteach.evaluate(damaged / "checkpoints" / "step-1")


def test_a_run_of_an_earlier_version_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(home / "full", old)
    config = (old / "config.toml").read_text()
    (old / "config.toml").write_text(config.replace(f"format = {FORMAT}", "format = 2"))
    with pytest.raises(selfteach.UserError, match=r"earlier selfteach .*old/model, instead"):
        selfteach.evaluate(old)
    told = r"old/config\.toml is of an earlier selfteach .*--model .*old/model"
    with pytest.raises(selfteach.UserError, match=told):
        configured(config=old)


# --- the command --------------------------------------------------------------------------------------------------


def test_several_tasks_are_one_table_and_one_file_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--problems", "4", "--samples", "3", "--pass-at-k", "1", "2", "--greedy"]
    files = ["--out", tmp_path / "all.json", "--csv", tmp_path / "t.csv", "--answers", tmp_path / "a.jsonl"]
    assert main(["eval", "--task", "table", "--task", "chain", *words, *map(str, files)]) == 0
    said = capsys.readouterr().out
    for word in ("average@3", "pass@2", "maj@3", "greedy", "95 %", "4 held-out problems × 3", "chain"):
        assert word in said
    with (tmp_path / "t.csv").open() as file:
        table = list(csv.DictReader(file))
    measures = ["average@3", "pass@1", "pass@2", "maj@3", "greedy"]
    assert [(row["task"], row["measure"]) for row in table] == [
        (task, measure) for task in ("table", "chain") for measure in measures
    ]
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in table)
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(answers) == 2 * 4 * (3 + 1)
    assert {"key", "prompt", "answer", "reference", "outcome", "tokens", "finished"} <= answers[0].keys()
    assert {one["outcome"] for one in answers} <= set(OUTCOMES)
    assert [one["sample"] for one in answers[:12]] == [0, 1, 2] * 4
    assert all(one["sample"] == "greedy" for one in answers[12:16])
    saved = json.loads((tmp_path / "all.json").read_text())
    assert [one["task"] for one in saved] == ["table", "chain"]
    assert saved[0]["estimates"][0]["value"] == float(table[0]["value"])
    together = selfteach.evaluate(
        None, ["table", "chain"], problems=4, samples=3, pass_at_k=(1, 2), greedy=True
    )
    assert [one.table() for one in together] == [
        {k: v for k, v in one.items() if k != "answers"} for one in saved
    ]


def test_outcomes_tell_what_became_of_the_answers(home: Path, tmp_path: Path) -> None:
    data = lines(tmp_path / "d.jsonl", rows(3))
    found = selfteach.evaluate(home / "tiny", data, max_tokens=1, samples=1)
    assert set(found.outcomes) <= {"cut off", "no answer"}
    assert sum(found.outcomes.values()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "table", "--pass-at-k", "9"], "pass@9 needs 9 samples"),
        (["--task", "table", "--model"], "--model needs a value"),
        (["--task", "table", "--rows", "some"], "rows"),
        (["./nothing/here", "--task", "table"], "no such folder"),
        (["--task", "table", "--smples", "3"], "--samples"),
        (["--task", "table", "--problems", "0"], "--problems"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *words]) == 2
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1
    assert said.removeprefix("--") in shown


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("selfteach.cli.evaluate.evaluate", None)
    for option in ("--csv", "--out", "--answers"):
        assert main(["eval", "--task", "table", option, str(tmp_path / "file" / "t.csv")]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_a_model_that_has_diverged_is_refused_in_one_line(home: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(home / "tiny", broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    with pytest.raises(selfteach.UserError, match=r"not finite"):
        selfteach.evaluate(broken, "table", problems=2, samples=1, max_tokens=4)
    with pytest.raises(selfteach.UserError, match="not finite"):
        selfteach.chat(broken)("Hello")


# --- what is given beside what a run says ---------------------------------------------------------------------------

FEW: dict[str, Any] = {"samples": 1, "max_tokens": 4, "problems": 2}


def asked(answer: Answered) -> str:
    """The question, without what is asked beside it."""
    return answer.example.problem.split("\n")[0]


def test_what_is_given_now_holds_in_place_of_what_it_contradicts(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, held = home / "file", lines(tmp_path / "held.jsonl", rows(2, 900))
    found = selfteach.evaluate(run, held_out_file=held, **FEW)
    assert {asked(one) for one in found.answers} == {"900+1", "901+1"}
    words = [str(run), "--samples", "1", "--max-tokens", "4"]
    assert main(["eval", *words, "--held-out-file", held]) == 0
    assert main(["eval", *words, f"--held_out_file={held}", "--held-out-fraction", "None"]) == 0
    capsys.readouterr()
    assert main(["eval", *words, "--held-out-file", held, "--held-out-fraction", "0.3"]) == 2
    assert "both say what is held out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def of_a_file(home: Path) -> Path:
    """A run with a held-out file, graded by verifier exact."""
    held = lines(home / "held.jsonl", rows(4, 900))
    selfteach.train(
        "sft", home / "tiny", str(home / "data.jsonl"), out=home / "exact", steps=1, prompts=2, max_tokens=4,
        held_out_file=held, verifier="exact", eval_problems=2, eval_samples=1, samples_every=0, progress=Silent,
    )  # fmt: skip
    return home / "exact"


def test_the_reverse_and_the_verifier_hold_too(of_a_file: Path, home: Path) -> None:
    found = selfteach.evaluate(of_a_file, held_out_fraction=0.3, **FEW)
    assert {asked(one) for one in found.answers} <= {row["problem"] for row in rows(40)}
    assert found.how["held_out_fraction"] == 0.3
    typed = selfteach.evaluate(of_a_file, answer_type="expression", **FEW)
    assert (typed.how["answer_type"], "verifier" in typed.how) == ("expression", False)
    other = selfteach.evaluate(of_a_file, lines(home / "more.jsonl", rows(3)), answer_type="interval", **FEW)
    assert other.how["answer_type"] == "interval"
    words = ["eval", str(of_a_file), "--samples", "1", "--max-tokens", "4"]
    assert main([*words, "--held-out-fraction", "0.2"]) == 0
    assert main([*words, "--answer-type", "set"]) == 0


def test_a_flag_beside_a_runs_settings_holds(of_a_file: Path, home: Path) -> None:
    start: dict[str, Any] = {"config": of_a_file, "out": home / "never"}
    fraction = configured(**start, held_out_fraction=0.3).task_options
    assert (fraction.held_out_file, fraction.held_out_fraction) == (None, 0.3)
    typed = configured(**start, answer_type="set").task_options
    assert (typed.verifier, typed.answer_type) == ("math", "set")
    kept = configured(**start, answer_type="number").task_options
    assert (kept.verifier, kept.answer_type) == ("exact", "number")
    words = ["--config", str(of_a_file), "--out", str(home / "never")]
    assert words_of([*words, "--held-out-fraction", "0.3"]).task_options == fraction
    assert words_of([*words, "--answer-type=set"]).task_options == typed
    for given in (
        {"held_out_file": "x.jsonl", "held_out_fraction": 0.3},
        {"verifier": "none", "answer_type": "set"},
    ):
        with pytest.raises(selfteach.UserError):
            configured(**start, **given)


@pytest.mark.parametrize(
    ("inherited", "given", "expected"),
    [
        ({"verifier": "math", "answer_type": "set"}, {"verifier": "none"}, ("none", None)),
        ({"verifier": "math", "answer_type": "set"}, {"verifier": "exact"}, ("exact", None)),
        ({"verifier": "math", "answer_type": "number"}, {"verifier": "exact"}, ("exact", "number")),
        ({"verifier": "none"}, {"answer_type": "set"}, ("math", "set")),
        ({"verifier": "exact"}, {"answer_type": None}, ("exact", None)),
    ],
)
def test_which_of_two_contradicting_options_yields(
    inherited: dict[str, Any], given: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    found = replace(yielding(TaskOptions(**inherited), given), **given)
    assert (found.verifier, found.answer_type) == expected


def test_an_option_that_is_given_as_none_contradicts_nothing() -> None:
    for none in (None, "none", "None"):
        inherited = TaskOptions(held_out_fraction=0.3)
        assert yielding(inherited, {"held_out_file": none}) == inherited


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory that each cut of what is sampled reckoned with."""
    seen: list[int] = []
    cut = Room.sampling

    def noted(self: Room, *given: Any, **more: Any) -> Any:
        seen.append(self.memory)
        return cut(self, *given, **more)

    monkeypatch.setattr(Room, "sampling", noted)
    return seen


def test_a_run_is_measured_in_batches_of_its_own_size_if_they_fit_here(
    home: Path, rooms: list[int], tmp_path: Path
) -> None:
    """A run of a machine with more memory must not take what this one lacks."""
    run = Path(shutil.copytree(home / "full", tmp_path / "run", symlinks=True))
    summary = json.loads((run / "summary.json").read_text())
    for memory in (2**27, 2**60):
        (run / "summary.json").write_text(json.dumps({**summary, "room": {"policy": memory}}))
        selfteach.evaluate(run, problems=2, samples=1, device="cpu")
    assert rooms[0] == 2**27
    assert 2**27 < rooms[1] < 2**50


def test_max_memory_bounds_what_is_sampled_at_once(home: Path, rooms: list[int]) -> None:
    asked = ["--problems", "2", "--samples", "1", "--device", "cpu"]
    assert main(["eval", str(home / "full"), *asked, "--max-memory", "1"]) == 0
    selfteach.evaluate(home / "full", problems=2, samples=1, device="cpu", max_memory=4.0)
    assert rooms == [2**27, 2**29]  # a quarter, rounded down to a power of two
    assert main(["eval", str(home / "full"), *asked, "--max-memory", "0"]) == 2
