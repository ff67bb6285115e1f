"""A run that was killed goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dying import dies
from saved import everything
from selfteach.training import checkpoint

STEPS = 6


def words(out: Path, weights: str, *more: str) -> list[str]:
    return [
        *("-m", "selfteach", "train", "opsd", "--task", "table", "--out", str(out)),
        *(
            "--weights",
            weights,
            "--ema-decay",
            "0.9",
            "--steps",
            str(STEPS),
            "--prompts",
            "4",
            "--max-tokens",
            "24",
        ),
        *("--checkpoint-every", "2", "--eval-problems", "4", "--eval-samples", "1", "--eval-every", "3"),
        *("--schedule", "cosine", "--device", "cpu", *more),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(out: Path, weights: str, *more: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, *words(out, weights, *more)]
    return subprocess.run(program, env=environment(), capture_output=True, text=True)


def run_to_end(out: Path, weights: str, *more: str) -> None:
    done = run(out, weights, *more)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["frozen", "ema"])
def test_a_killed_run_resumes_and_matches_the_uninterrupted_one(tmp_path: Path, weights: str) -> None:
    run_to_end(tmp_path / "whole", weights)
    expected = everything(tmp_path / "whole", STEPS)
    moments = {"writing": "checkpoints/.step-4.partial"}
    if weights == "ema":
        moments |= {"between": "checkpoints/step-2", "early": "metrics.jsonl"}
    for name, moment in moments.items():
        out = tmp_path / name
        dies(words(out, weights), moment, signal.SIGKILL, environment())
        assert (out / moment).exists()
        assert not (out / "summary.json").exists()
        run_to_end(out, weights, "--resume")
        saved, metrics, samples = everything(out, STEPS)
        assert metrics == expected[1]
        assert samples == expected[2]
        assert saved.keys() == expected[0].keys()
        for place, value in saved.items():
            assert torch.equal(value, expected[0][place]), place


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_to_end(out, "frozen")
    expected = everything(out, STEPS)
    (out / "summary.json").unlink()
    newest = out / "checkpoints" / f"step-{STEPS}" / "weights.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    done = run(out, "frozen", "--resume")
    assert done.returncode == 0
    assert f"step-{STEPS}" in done.stderr
    assert "damaged" in done.stderr
    saved, _, _ = everything(out, STEPS)
    for place, value in saved.items():
        assert torch.equal(value, expected[0][place]), place


@pytest.mark.slow
def test_ctrl_c_checkpoints_and_exits_with_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = dies(words(out, "ema"), "checkpoints/step-2", signal.SIGINT, environment())
    assert "--resume" in said
    assert not (out / "summary.json").exists()
    assert checkpoint.latest(out) is not None
    run_to_end(out, "ema", "--resume")


@pytest.mark.slow
def test_resuming_with_other_knobs_is_refused_and_names_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_to_end(out, "frozen")
    done = run(out, "ema", "--resume")
    assert done.returncode == 2
    assert "recipe.weights" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_output_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_to_end(out, "frozen")
    done = run(out, "frozen")
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
