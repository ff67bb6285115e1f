"""Weights sharded over processes change nothing that is computed, nothing that is saved, and nobody waits forever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from launched import ALONE, assert_same, selfteach, train, words_of
from selfteach.cli.train import run_of
from selfteach.errors import UserError
from selfteach.recipes import RECIPES
from selfteach.task.arena import model_folder
from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows
from selfteach.training.text.models import require_shardable
from vllm_server import Vllm, serving

HERE = Path(__file__).parent
LONG = 24
MOVING = ("--weights", "ema")


# --- the same numbers -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sharded_weights_learn_what_whole_ones_do(tmp_path: Path) -> None:
    """A teacher that is an average of them, too: a role that scored with the student's weights would differ."""
    train(tmp_path / "one", 1, *MOVING, "--steps", "5")
    train(tmp_path / "two", 2, *MOVING, "--steps", "5", "--fsdp", "full_shard", "--micro-batch", "2")
    assert_same(tmp_path, steps=5)
    train(tmp_path / "live", 1, "--weights", "live", "--steps", "5")
    losses = [
        [row["loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("one", "live")
    ]
    assert losses[0][-1] != pytest.approx(losses[1][-1], rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["frozen", "live"])
def test_a_mean_over_sequences(tmp_path: Path, weights: str) -> None:
    more = ("--weights", weights, "--mean-over", "sequences")
    train(tmp_path / "one", 1, *more)
    train(tmp_path / "two", 2, *more, "--fsdp", "shard_grad_op", "--micro-batch", "2")
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("turns", ["101323", "123000"])
def test_processes_with_unequal_numbers_of_rows_wait_for_each_other(tmp_path: Path, turns: str) -> None:
    """Of a prompt, a minibatch or the whole batch a process may have nothing, and passes enough to gather layers."""
    more = ("--minibatches", "3", "--max-unavailable", "1", "--lr", "2e-4", "--metrics-tokens", "60")
    train(tmp_path / "one", 1, *more, script=("uneven.py", turns))
    words = (*more, "--micro-batch", "3", "--fsdp", "full_shard")
    train(tmp_path / "two", 2, *words, script=("uneven.py", turns))
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["frozen", "ema"])
def test_adapters_on_a_sharded_base(tmp_path: Path, weights: str) -> None:
    more = ("--weights", weights, "--lora-rank", "4")
    train(tmp_path / "one", 1, *more)
    train(tmp_path / "two", 2, *more, "--fsdp", "full_shard", "--micro-batch", "2")
    assert_same(tmp_path, file="adapter_model.safetensors")
    assert (tmp_path / "one/model/base.json").read_text() == (tmp_path / "two/model/base.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_activations_that_are_computed_again(tmp_path: Path, checkpointing: str) -> None:
    more = ("--gradient-checkpointing", checkpointing)
    train(tmp_path / "one", 1, *more)
    train(tmp_path / "two", 2, *more, "--fsdp", "full_shard", "--micro-batch", "2")
    assert_same(tmp_path)


@pytest.mark.slow
def test_contexts_that_rollouts_share_have_the_gradients_of_whole_rows(tmp_path: Path) -> None:
    """A split network is called several times in a pass, and keys and values of the first call get gradients from all
    later ones. Processes have unlike numbers of prompts and of passes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launcher, str(HERE / "sharded_prefix.py"), str(tmp_path / "found.json")]
    done = subprocess.run(words, env=ALONE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert {case.partition(",")[0] for case in found} == {"full_shard", "shard_grad_op"}
    assert any("LoRA" in case for case in found)
    for case, processes in found.items():
        assert len(processes) == 2
        assert len({one["passes"] for one in processes}) == 2, case
        for one in processes:
            assert one["trained"] > 20, case
            assert one["states"] < 1e-6, case
            assert one["gradients"] < 2e-6, case


METHODS = ("sd-zero", "pi-play", "sdpo", "exopd", "pi-distill", "effopd", "tcod")
"""With stages, two policies, groups, another model, two trained roles, a hook, turns."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, "vpd --unlucky"])
def test_methods_with_stages_roles_and_hooks_of_their_own(tmp_path: Path, name: str) -> None:
    name, *more = name.split()
    assert name in RECIPES
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [sys.executable, *launcher, str(HERE / "sharded_run.py"), str(tmp_path), name, *more]
    done = subprocess.run(words, env=ALONE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["sharded"] == pytest.approx(found["whole"], rel=1e-3, abs=1e-5)
    assert found["weights"] < 5e-4  # Adam makes steps of gradients that are but rounding


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("srpo",), ("minillm",), ("sdpo", "--feedback", "never", "--max-unavailable", "1")]
)
def test_preflight_and_teachers_that_see_nothing_anywhere(tmp_path: Path, words: tuple[str, ...]) -> None:
    few = (
        "--prompts",
        "2",
        "--steps",
        "1",
        "--max-tokens",
        "8",
        "--samples-every",
        "0",
        "--eval-problems",
        "0",
    )
    done = selfteach(2, *words, "--fsdp", "full_shard", "--out", str(tmp_path / "run"), *few)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_bfloat16_layers_are_gathered_and_the_rest_is_exact(tmp_path: Path) -> None:
    """What is summed in float32 stays so: losses differ by what a layer's norms are rounded."""
    train(tmp_path / "one", 2, "--precision", "bfloat16")
    train(tmp_path / "two", 2, "--precision", "bfloat16", "--fsdp", "full_shard")
    rows = [read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    losses = [[row["loss"] for row in part if "loss" in row] for part in rows]
    assert losses[1] == pytest.approx(losses[0], rel=3e-2)
    two = load_file(tmp_path / "two" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}


# --- what is saved ----------------------------------------------------------------------------------------------


def cut_after(whole: Path, out: Path, step: int) -> Path:
    """The run as it would be had it been killed after a step's checkpoint."""
    shutil.copytree(whole, out)
    for later in (out / "checkpoints").glob("step-*"):
        if checkpoint.step_of(later) > step:
            shutil.rmtree(later)
    (out / "summary.json").unlink()
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.slow
def test_a_sharded_run_goes_on_to_the_bit_and_by_any_number_of_processes(tmp_path: Path) -> None:
    words = ("opsd", *MOVING, "--steps", "4", "--checkpoint-every", "2")
    whole = tmp_path / "whole"
    done = selfteach(2, *words, "--fsdp", "full_shard", "--out", str(whole))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (whole / "checkpoints" / "step-2" / "shards").is_dir()
    for name, processes, more in (
        ("again", 2, ()),
        ("whole-again", 2, ("--fsdp", "off")),
        ("alone", 1, ("--fsdp", "off")),
        ("four", 4, ()),
    ):
        out = cut_after(whole, tmp_path / name, 2)
        done = selfteach(processes, "--out", str(out), "--resume", *more)
        assert done.returncode == 0, (name, done.stderr[-3000:])
        for place, tensor in weights(whole).items():
            if name == "again":
                assert torch.equal(weights(out)[place], tensor)
            else:
                torch.testing.assert_close(weights(out)[place], tensor, rtol=1e-4, atol=2e-5)
    # A run of one process goes on sharded.
    begun = tmp_path / "begun"
    assert selfteach(1, *words, "--out", str(begun)).returncode == 0
    out = cut_after(begun, tmp_path / "sharded", 2)
    assert selfteach(2, "--out", str(out), "--resume", "--fsdp", "full_shard").returncode == 0
    for place, tensor in weights(begun).items():
        torch.testing.assert_close(weights(out)[place], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_what_a_sharded_run_leaves_is_read_by_everybody(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("opsd", *MOVING, "--steps", "2", "--checkpoint-every", "1")
    assert selfteach(2, *words, "--fsdp", "full_shard", "--out", str(out)).returncode == 0
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert type(model).__name__ == model.config.architectures[0]
    assert not any("FSDP" in one for one in model.config.architectures)
    state = checkpoint.load(out / "checkpoints" / "step-2")
    own = model.state_dict()
    (policy,) = state["weights"].values()
    assert policy
    for name, tensor in policy.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=0)
    asked = subprocess.run(
        [sys.executable, "-m", "selfteach", "eval", str(out / "checkpoints" / "step-1"), "--problems", "4"],
        env=ALONE, capture_output=True, text=True,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-2000:]


@pytest.mark.slow
def test_a_lost_or_altered_shard_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert selfteach(2, "opsd", "--steps", "1", "--fsdp", "full_shard", "--out", str(out)).returncode == 0
    step = out / "checkpoints" / "step-1"
    shards = sorted((step / "shards").iterdir())
    assert len(shards) == 2
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "shards/" in str(checkpoint.damage(step))
    shards[1].unlink()
    assert shards[1].name in str(checkpoint.damage(step))


# --- refusals and faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--sampler-dtype", "bfloat16"), "--sampler-dtype"),
        (("--offload-teachers", "disk"), "--offload-teachers"),
        (("--optim", "adafactor"), "--optim adafactor"),
        ((), "torchrun"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], named: str
) -> None:
    config = run_of(["opsd", "--task", "table", "--fsdp", "full_shard", *words])
    with pytest.raises(UserError, match=named):
        require_shardable(config, list(config.recipe.stages.values()))
    off = replace(config, loading=replace(config.loading, fsdp="off"))
    require_shardable(off, list(off.recipe.stages.values()))


def begun(out: Path, *words: str) -> subprocess.Popen[str]:
    """A run of two processes, with its first checkpoints written and most of it to come."""
    long = ("opsd", "--steps", str(LONG), "--checkpoint-every", "2", "--out", str(out), *words)
    run = subprocess.Popen(words_of(2, *long), env=ALONE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 240
    while not (out / "checkpoints" / "step-4").is_dir():
        assert run.poll() is None, run.stderr.read()[-3000:] if run.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.2)
    return run


def second(run: subprocess.Popen[str]) -> psutil.Process:
    """The second of the processes."""
    workers = [one for one in psutil.Process(run.pid).children() if "LOCAL_RANK" in one.environ()]
    return next(one for one in workers if one.environ()["LOCAL_RANK"] == "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fsdp", "number", "words"),
    [("full_shard", signal.SIGKILL, ()), ("off", signal.SIGSTOP, ("--ddp-timeout", "8"))],
)
def test_a_process_that_dies_or_hangs_ends_the_others_in_one_line(
    tmp_path: Path, fsdp: str, number: signal.Signals, words: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    run = begun(out, *words, "--fsdp", fsdp)
    gone = second(run)
    gone.send_signal(number)
    line = next((line for line in run.stderr or () if line.startswith("selfteach: ")), "")
    with suppress(psutil.NoSuchProcess):
        gone.kill()  # of one that hangs: the launcher would wait for it
    run.communicate(timeout=120)
    assert run.returncode != 0
    assert "another process of this run has ended or does not answer" in line
    assert "--resume" in line
    assert (out / "stopped.txt").is_file()
    done = selfteach(2, "--out", str(out), "--resume", "--ddp-timeout", "1800")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((out / "summary.json").read_text())["steps"] == LONG


def on_path(folder: Path, **programs: str) -> dict[str, str]:
    """An environment whose PATH begins with these programs."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {**ALONE, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": sys.executable}


LAUNCH = sorted((HERE.parent / "examples" / "launch").iterdir())


@pytest.mark.parametrize("file", LAUNCH, ids=lambda file: file.name)
def test_launch_files_are_what_they_say(tmp_path: Path, file: Path) -> None:
    """Each is read by bash, and shows the settings of a run that its own words ask for."""
    assert len(LAUNCH) == 3
    subprocess.run(["bash", "-n", str(file)], check=True)
    env = on_path(
        tmp_path / "bin",
        torchrun=f'exec {sys.executable} -m torch.distributed.run "$@"',
        srun='exec "$@"',
        scontrol="echo localhost; echo other",
    )
    env |= {"GPUS": "2", "NODES": "1", "HEAD": "localhost", "PORT": "0", "OUT": str(tmp_path / "run")}
    env |= {"SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a[1-4]"}
    shown = subprocess.run(
        ["bash", str(file), "--model", "", "--task", "table", "--dry-run"],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.count('fsdp = "full_shard"') == 1
    assert shown.stdout.count("[optimization]") + shown.stdout.count("[recipe.optimization]") == 1


@pytest.mark.slow
def test_several_processes_let_a_vllm_server_write(tmp_path: Path) -> None:
    """Weights are pushed by the first one, gathered where they are sharded; who writes what is the same for any number
    of processes."""
    folder = str(model_folder("table"))
    losses = []
    for name, processes, more in (
        ("one", 1, ()),
        ("two", 2, ()),
        ("sharded", 2, ("--fsdp", "full_shard")),
    ):
        vllm = Vllm(folder)
        out = tmp_path / name
        with serving(vllm) as url:
            words = ("--use-vllm", "--vllm-mode", "server", "--vllm-server-base-url", url, "--steps", "3")
            done = selfteach(processes, "opsd", *words, *more, "--out", str(out))
        assert done.returncode == 0, done.stderr[-3000:]
        assert sum(path.startswith("/collective_rpc") for path in vllm.calls) == 3
        rows = [row for row in read_rows(out / "metrics.jsonl") if "loss" in row]
        assert all(row["sampling/staleness"] == 0 for row in rows)
        losses.append([row["loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)
