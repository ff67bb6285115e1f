"""Runs of one process or several, and whether they came out the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saved import COSTS
from selfteach.training.jsonrows import read_rows


def train(out: Path, processes: int, *more: str, script: Sequence[str] = ("off_policy.py",)) -> None:
    # As the README says it, where that is the CPU: nothing tells accelerate so but the machine.
    device = ("--device", "cpu") if torch.accelerator.is_available() else ()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [
        *(
            sys.executable,
            *(launcher if processes > 1 else []),
            str(Path(__file__).with_name(script[0])),
        ),
        *script[1:],
        *("--task", "table", "--mean-over", "tokens"),
        *("--steps", "3", "--prompts", "6", "--max-tokens", "40", "--eval-problems", "0", *device),
        *("--out", str(out), *more),
    ]
    done = subprocess.run(
        words,
        env={name: word for name, word in env.items() if name != "ACCELERATE_USE_CPU"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def words_of(processes: int, *words: str) -> list[str]:
    """``selfteach train`` on world "table", as several processes are launched by the README."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    device = ("--device", "cpu") if torch.accelerator.is_available() else ()
    few = ("--task", "table", "--prompts", "4", "--max-tokens", "24", "--eval-problems", "0")
    new = () if "--resume" in words else few
    program = [sys.executable, *(launcher if processes > 1 else []), "-m", "selfteach", "train"]
    return [*program, *words, *new, *device]


def selfteach(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The same, run to its end."""
    return subprocess.run(words_of(processes, *words), env=ALONE, capture_output=True, text=True)


def assert_same(folder: Path, steps: int = 3, file: str = "model.safetensors") -> None:
    """The runs "one" and "two" in the folder ended with the same weights, and wrote the same numbers on the way."""
    one, two = (load_file(folder / name / "model" / file) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=2e-5)
    rows = [read_rows(folder / name / "metrics.jsonl") for name in ("one", "two")]
    for single, double in zip(*rows, strict=True):
        terms = {name: value for name, value in single.items() if name.startswith("terms/")}
        assert {name: double[name] for name in terms} == pytest.approx(terms, rel=1e-4)
        assert single.keys() == double.keys()
        same = {name: value for name, value in single.items() if not name.startswith(COSTS)}
        assert {name: double[name] for name in same} == pytest.approx(same, rel=1e-3, abs=1e-7)
    assert json.loads((folder / "two" / "summary.json").read_text())["steps"] == steps
