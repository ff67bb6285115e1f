"""A run's folder: one writer, one config, rows that survive whatever a model writes."""

import json
import math
import multiprocessing
import os
import resource
import signal
import tomllib
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from selfteach.errors import UserError
from selfteach.training.jsonrows import read_rows
from selfteach.training.rundir import RunFolder, writing

CONFIG = {
    "recipe": {"name": "opsd"},
    "knobs": {"lr": 3e-4, "top_k": None, "sizes": (1, 2)},
    "versions": {"torch": "2.13"},
}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "selfteach.training.rundir"])


def rows(path: Path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text("ascii").splitlines()]


# --- one run a folder, one writer a run


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    with RunFolder.create(tmp_path / "a" / "b") as run:
        assert run.path.is_dir()


@pytest.mark.parametrize(
    "held", ["config.toml", "metrics.jsonl", "samples.jsonl", "summary.json", "checkpoints/x"]
)
def test_a_folder_that_holds_a_run_is_refused_for_a_new_one(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("")
    with pytest.raises(UserError, match=r"already holds a run .*--resume.*--out"):
        RunFolder.create(tmp_path)


def test_a_refused_folder_is_left_unlocked(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(UserError):
        RunFolder.create(tmp_path)
    RunFolder.resume(tmp_path, {}).close()


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"run could not be written \(File exists\)"):
        RunFolder.create(tmp_path / "run")


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with RunFolder.create(tmp_path), pytest.raises(UserError, match="another live process"):
        RunFolder.create(tmp_path)
    RunFolder.create(tmp_path).close()


def _hold(path: Path, locked: Connection) -> None:
    run = RunFolder.create(path)
    run.write_config(CONFIG)
    locked.send(True)
    signal.pause()


def test_a_live_process_keeps_others_out_and_a_killed_one_does_not(tmp_path):
    here, there = processes.Pipe()
    process = processes.Process(target=_hold, args=(tmp_path, there), daemon=True)
    process.start()
    there.close()  # so that a child that dies is an end of file, and not waited for
    assert here.recv()
    with pytest.raises(UserError, match="another live process"):
        RunFolder.resume(tmp_path, CONFIG)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    RunFolder.resume(tmp_path, CONFIG).close()


# --- config


@pytest.mark.parametrize("note", ['line one\nline "two" \\ é 模型', "Q: {problem}\r\nA:", "\r", "'''\"\"\""])
def test_a_config_reads_back_as_it_was_with_its_none_spelled(tmp_path, note):
    with RunFolder.create(tmp_path) as run:
        run.write_config(CONFIG | {"note": note, "turns": [{"content": note}]})
    saved = tomllib.loads((tmp_path / "config.toml").read_text("utf-8"))
    assert saved == {
        "recipe": {"name": "opsd"},
        "knobs": {"lr": 3e-4, "sizes": [1, 2], "top_k": "none"},
        "versions": {"torch": "2.13"},
        "note": note,
        "turns": [{"content": note}],
    }


def written(path: Path, config: dict) -> None:
    with RunFolder.create(path) as run:
        run.write_config(config)


@pytest.mark.parametrize(
    "config", [CONFIG, {}, {"x": math.nan, "y": math.inf}, {"deep": {"er": {"z": [1, [2.5]]}}}]
)
def test_a_run_resumes_with_the_config_it_was_started_with(tmp_path, config):
    written(tmp_path, config)
    RunFolder.resume(tmp_path, config).close()


def test_every_knob_that_differs_on_resume_is_named_with_both_values(tmp_path):
    written(tmp_path, CONFIG)
    changed = {"recipe": {"name": "opsd"}, "knobs": {"lr": 1e-4, "top_k": 5}, "versions": {"torch": "2.13"}}
    with pytest.raises(UserError) as refusal:
        RunFolder.resume(tmp_path, changed)
    text = str(refusal.value)
    assert "knobs.lr: 0.0003 → 0.0001" in text
    assert "knobs.top_k: 'none' → 5" in text
    assert "knobs.sizes: [1, 2] → 'unset'" in text
    assert "recipe" not in text
    assert "\n" not in text


def test_tables_declared_free_may_differ_on_resume(tmp_path):
    written(tmp_path, CONFIG)
    RunFolder.resume(
        tmp_path, CONFIG | {"versions": {"torch": "2.14", "python": "3.13"}}, free=["versions"]
    ).close()
    with pytest.raises(UserError, match=r"versions\.torch"):
        RunFolder.resume(tmp_path, CONFIG | {"versions": {"torch": "2.14"}}, free=["version"])


def test_a_folder_without_a_run_is_not_resumed(tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        RunFolder.resume(tmp_path / "absent", CONFIG)
    assert not (tmp_path / "absent").exists()


def test_a_broken_config_is_named(tmp_path):
    (tmp_path / "config.toml").write_text("= 3")
    with pytest.raises(UserError, match=r"config\.toml is not valid TOML"):
        RunFolder.resume(tmp_path, CONFIG)


def test_a_config_text_that_has_no_utf8_is_refused_by_its_name(tmp_path):
    with RunFolder.create(tmp_path) as run, pytest.raises(UserError, match=r"knobs\.prompt"):
        run.write_config({"knobs": {"prompt": "half \ud800"}})


# --- rows


def test_metrics_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with RunFolder.create(tmp_path) as run:
        for step in range(3):
            run.metrics({"step": step, "loss": 0.1 * step, "terms": {"match": 1.0}})
            assert rows(tmp_path / "metrics.jsonl")[-1] == {
                "step": step,
                "loss": 0.1 * step,
                "terms": {"match": 1.0},
            }


@pytest.mark.parametrize(
    ("number", "text"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_json_lacks_are_written_as_strings_that_float_reads_back(tmp_path, number, text):
    with RunFolder.create(tmp_path) as run:
        run.metrics({"step": 1, "loss": number, "terms": {"match": [number]}})
        run.summary({"loss": number})
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "loss": text, "terms": {"match": [text]}}
    assert float(row["loss"]) == number or math.isnan(number)
    assert json.loads((tmp_path / "summary.json").read_text()) == {"loss": text}


@pytest.mark.parametrize(
    "answer", ["half \ud83d", "\x00\x1b[2J\r\n\u2028", "سلام \u202e 模型 🙂", "\udc80\udcff", ""]
)
def test_any_text_a_model_writes_stays_one_row_and_comes_back(tmp_path, answer):
    with RunFolder.create(tmp_path) as run:
        run.samples([{"step": 1, "answer": answer}, {"step": 1, "answer": "next"}])
    assert [row["answer"] for row in rows(tmp_path / "samples.jsonl")] == [answer, "next"]


def test_a_row_that_cannot_be_written_leaves_those_before_it_whole(tmp_path):
    saved = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder.create(tmp_path) as run:
        run.metrics({"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, saved[1]))
        try:
            with pytest.raises(UserError, match=r"metrics\.jsonl could not be written \(File too large\)"):
                run.metrics({"step": 2, "text": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, saved)
        run.cut(run.marks())
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1}]


def test_a_summary_is_replaced_whole(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.summary({"accuracy": 0.5, "long": "x" * 1000})
        run.summary({"accuracy": 0.75})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"accuracy": 0.75}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "summary.json"]


# --- columns


def test_token_columns_come_back_with_their_dtypes(tmp_path):
    divergence = torch.rand(3, 4).T
    with RunFolder.create(tmp_path) as run:
        run.tokens(
            20,
            {"divergence": divergence, "top": {"ids": torch.ones(2, dtype=torch.int32)}, "key": ["a", "b"]},
        )
    tensors = load_file(tmp_path / "tokens" / "step-20.safetensors")
    assert torch.equal(tensors["divergence"], divergence)
    assert tensors["top.ids"].dtype == torch.int32
    assert json.loads((tmp_path / "tokens" / "step-20.json").read_text()) == {"key": ["a", "b"]}


def test_a_failed_batch_is_kept_with_its_reason_and_its_nan(tmp_path):
    logits = torch.tensor([1.0, math.nan, -math.inf])
    with RunFolder.create(tmp_path) as run:
        path = run.write_aside(
            7, {"teachers": {"frozen": logits}, "text": ["half \ud800"], "loss": math.nan}, "loss is NaN"
        )
    assert path == tmp_path / "failed" / "step-7.json"
    assert json.loads(path.read_text()) == {
        "text": ["half \ud800"],
        "loss": "NaN",
        "step": 7,
        "reason": "loss is NaN",
    }
    kept = load_file(path.with_suffix(".safetensors"))["teachers.frozen"]
    assert torch.equal(kept.view(torch.int32), logits.view(torch.int32))


# --- resuming


def write_steps(run: RunFolder, steps: range) -> None:
    for step in steps:
        run.metrics({"step": step, "loss": 1 / (step + 1), "note": "模"})
        if step % 2 == 0:
            run.samples([{"step": step, "answer": f"a{i}"} for i in range(2)])
            run.tokens(step, {"divergence": torch.full((2,), float(step))})


def content(path: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"
    }


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "lo'], ids=["whole rows", "a torn last row"])
def test_a_resumed_runs_files_equal_an_uninterrupted_runs(tmp_path, torn):
    with RunFolder.create(tmp_path / "whole") as run:
        write_steps(run, range(10))
        marks = run.marks()
    with RunFolder.create(tmp_path / "broken") as run:
        run.write_config(CONFIG)
        write_steps(run, range(5))
        known = run.marks()
        write_steps(run, range(5, 8))
    with (tmp_path / "broken" / "metrics.jsonl").open("ab") as stream:
        stream.write(torn)
    with RunFolder.resume(tmp_path / "broken", CONFIG) as run:
        run.cut(known)
        write_steps(run, range(5, 10))
        assert run.marks() == marks
    (tmp_path / "broken" / "config.toml").unlink()
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_run_killed_before_its_first_row_can_be_cut(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.cut({})
    assert content(tmp_path) == {}


def test_a_run_without_a_checkpoint_begins_with_empty_files(tmp_path):
    with RunFolder.create(tmp_path) as run:
        write_steps(run, range(4))
        run.cut({})
        assert run.marks() == {}
    assert content(tmp_path) == {}


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', "nonsense", "null"])
def test_a_broken_row_in_the_middle_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 9}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_rows(tmp_path / "metrics.jsonl")


def test_rows_read_back_without_a_torn_last_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_bytes(b'{"step": 1, "loss": "NaN"}\n{"step": 2}\n{"ste')
    assert read_rows(path) == [{"step": 1, "loss": "NaN"}, {"step": 2}]


def test_failed_batches_outlive_a_resume(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.write_aside(9, {}, "loss is NaN")
        run.cut({})
    assert set(content(tmp_path)) == {"failed/step-9.json", "failed/step-9.safetensors"}


# --- what is the user's own


OWN = ("model", "tokens", "stored", "tensorboard", "wandb", "report.html", "model-critic")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_folder_with_something_by_a_runs_names_is_refused_and_left_alone(tmp_path, name, kind):
    if kind == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious.txt").write_text("mine")
    elif kind == "file":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"holds {name} already, .*--out"):
        RunFolder.create(tmp_path, also=["model-critic"])
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_all_that_a_run_wrote_is_forgotten_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "data").mkdir()
    with RunFolder.create(tmp_path, also=["model-critic"]) as run:
        run.write_config(CONFIG)
        run.metrics({"step": 0})
        for name in OWN[:5]:
            (tmp_path / name).mkdir()
        (tmp_path / "model-critic").mkdir()
        run.forget_all()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["data", "notes.txt"]


@pytest.mark.parametrize("new", [True, False])
def test_a_folder_in_which_nothing_was_written_is_taken_away_if_the_run_made_it(tmp_path, new):
    out = tmp_path / "run"
    if not new:
        out.mkdir()
    RunFolder.create(out).close()
    assert out.exists() is not new


def test_a_refusal_of_the_disk_that_says_nothing_is_named_by_its_type(tmp_path):
    for silent in (SafetensorError(""), OSError()):
        with (
            pytest.raises(UserError, match=rf"could not be written \({type(silent).__name__}\)"),
            writing(tmp_path),
        ):
            raise silent
