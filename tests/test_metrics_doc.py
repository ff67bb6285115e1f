"""docs/metrics.md names what runs write, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chat_server import serving
from logprobs import vllm
from selfteach.api.progress import Silent
from selfteach.cli.train import configured
from selfteach.training.jsonrows import read_rows
from selfteach.training.launch import launch
from tiny import tiny_model_folder

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
RUNS = {
    "opsd": "--view plain --lr 1e-6 --steps 10 --eval-problems 2 --eval-samples 2",
    "grpo": "--kl 0.1 --steps 1 --eval-problems 1 --eval-samples 2 --per-prompt 2 --sampler-dtype bfloat16 "
    f"--reward {__file__}:numbered",
    "atesd": "--steps 2 --eval-problems 0",
    "sft": "--steps 1 --eval-problems 0",
    "dp-opd": "--teacher {model} --steps 1 --eval-problems 0 --poisson-records 40",
    "effopd": "--teacher {model} --steps 1 --eval-problems 0 --validation 2",
}
"""A run without signal, so that an alarm sounds; a reference and a reward of several numbers; a controller with a
probe; text nobody sampled; privacy; a hook."""

EPISODES = (
    "opsd",
    f"--task {Path(__file__).with_name('guessing.py')}:make --view answer --steps 1 --eval-problems 2 --lora-rank 0 "
    "--student-thinking none --teacher-thinking none",
)
"""Of several turns."""

SERVED = (
    "opsd --task table --max-tokens 8 --prompts 2 --steps 1 --eval-problems 0 --samples-every 0 --teacher-top-k 4 "
    "--clip-entry none --loss-temperature 1"
)
"""With a teacher on a server."""


def numbered(completion: str) -> dict[str, Any]:
    return {"score": 0.0, "numbers": {"letters": len(completion)}}


def documented() -> list[str]:
    """The names in the first column of the page's tables, as it spells them."""
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [name for cell in rows for name in re.findall(r"`([^`]+)`", cell)]


def pattern(name: str) -> str:
    """A documented name as a regular expression: words in capitals stand for one part of any name.

    No such part has an @ in it, so that ``eval/NAME`` is not ``eval/pass@K`` too.
    """
    return re.sub(r"[A-Z]+", "[^/@]+", re.escape(name))


def names(row: Mapping[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in row.items():
        found |= names(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key}
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every name that the runs wrote."""
    folder = tmp_path_factory.mktemp("runs")
    model = str(tiny_model_folder(folder / "model"))
    found: set[str] = set()
    for number, (recipe, words) in enumerate([*RUNS.items(), EPISODES]):
        out = folder / str(number)
        common = f"--task table --model {model} --max-tokens 8 --prompts 4 --samples-every 0 --out {out}"
        config, _ = configured([recipe, *common.split(), *words.format(model=model).split()])
        launch(config, Silent, Silent, check=False)
        for row in read_rows(out / "metrics.jsonl"):
            found |= names(row)
    with serving(vllm(model), models=("t",)) as (url, _):
        words = f"{SERVED} --model {model} --teacher-server {url} --out {folder / 'served'}"
        launch(configured(words.split())[0], Silent, Silent, check=False)
    for row in read_rows(folder / "served" / "metrics.jsonl"):
        found |= names(row)
    return found


def rows_for(name: str) -> list[str]:
    """The documented names that mean ``name``: itself, or else the patterns that fit."""
    known = documented()
    return [name] * known.count(name) or [d for d in known if re.fullmatch(pattern(d), name)]


def test_every_name_that_a_run_writes_is_documented_once(written: set[str]) -> None:
    assert {name: rows_for(name) for name in written if len(rows_for(name)) != 1} == {}


def test_every_documented_name_is_written_by_some_run(written: set[str]) -> None:
    only_in_stages = {"stage"}
    meant = {d for name in written for d in rows_for(name)}
    assert set(documented()) - meant == only_in_stages


def test_every_metric_has_a_formula() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert all(len(row) == 6 and row[3].strip() for row in rows)
