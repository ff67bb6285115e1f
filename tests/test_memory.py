"""The predicted peak of a run's memory, its terms by themselves and held against runs in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runs import TextRun, run_of
from selfteach.training.text.preflight.memory import (
    Prediction,
    kept_by_a_token,
    memory_check,
    predicted,
)
from selfteach.training.text.preflight.probing import first_prompts
from tiny import tiny_model_folder

FLOAT = 4


def prediction(run: TextRun) -> Prediction:
    return predicted(run.learner, first_prompts(run.learner))


def test_what_a_token_keeps_is_what_the_model_keeps(tiny: str) -> None:
    """Per layer of a Llama: ten vectors of its width (its input, what two norms read and give, queries, keys, values,
    attention's result …) and four of its inner width; recomputed, its input alone; in part, its input and what seven
    products and attention gave."""
    run = run_of(tiny, "--lora-rank", "0")
    config = run.learner.policy.model.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    whole = kept_by_a_token(run.learner.policy)
    assert whole == pytest.approx(layers * (10 * width + 4 * inner) * FLOAT, rel=0.25)
    again = kept_by_a_token(run_of(tiny, "--lora-rank", "0", "--gradient-checkpointing").learner.policy)
    assert layers * width * FLOAT <= again <= (layers + 4) * width * FLOAT
    run = run_of(tiny, "--lora-rank", "0", "--gradient-checkpointing", "selective")
    part = kept_by_a_token(run.learner.policy, "selective")
    keys = config.num_key_value_heads * config.head_dim
    assert part == pytest.approx(layers * (5 * width + 2 * keys + 2 * inner) * FLOAT, rel=0.25)


def test_the_optimizer_s_state_counts(tiny: str) -> None:
    found = {
        optim: prediction(run_of(tiny, "--lora-rank", "0", "--optim", optim)).stay.optimizer
        for optim in ("adamw_torch", "adafactor", "sgd")
    }
    weights = sum(p.nbytes for p in run_of(tiny, "--lora-rank", "0").learner.policy.trainable().values())
    assert found["adamw_torch"] == 2 * weights
    assert 0 < found["adafactor"] < 0.1 * weights
    assert found["sgd"] == 0


def test_of_several_micro_batches_gradients_stand_beside_the_activations(tiny: str) -> None:
    run = run_of(tiny, "--lora-rank", "0")
    gradients = sum(p.nbytes for p in run.learner.policy.trainable().values())
    one, half = (prediction(run_of(tiny, "--lora-rank", "0", "--micro-batch", n)).of_stages[0] for n in "42")
    assert half.update < one.update
    quarter = prediction(run_of(tiny, "--lora-rank", "0", "--micro-batch", "1")).of_stages[0]
    assert half.update - quarter.update == pytest.approx(
        (one.update - (half.update - gradients)) / 2, rel=0.2
    )


def test_where_memory_is_short_the_run_is_refused_with_what_helps(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tiny, "--lora-rank", "0")
    prompts, found = first_prompts(run.learner), prediction(run)
    for free, advice in ((0, "--optim adafactor"), (found.to_come, "micro_batch"), (found.to_come + 1, None)):
        monkeypatch.setattr("selfteach.training.text.preflight.memory.free_memory", lambda device, f=free: f)
        check = memory_check(run.learner, prompts)
        assert check.ok is (advice is None)
        assert "at the peak" in check.detail
        assert advice is None or advice in check.detail


OF_A_CHILD = """
import subprocess, sys
held = b"x" * 700_000_000
asked = "from selfteach.training.memory import peak_memory; print(peak_memory())"
subprocess.run([sys.executable, "-c", asked], check=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are measured as Linux counts them")
def test_a_runs_peak_is_its_own_and_not_that_of_the_program_which_started_it() -> None:
    done = subprocess.run([sys.executable, "-c", OF_A_CHILD], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(done.stdout) < 700_000_000


# --- against what a run takes ---------------------------------------------------------------------------------------

LARGE = ("--prompts", "8", "--max-tokens", "32")
RUNS = {
    "arena": ("opsd", "--prompts", "16", "--max-tokens", "32"),
    "all weights": ("opsd", "--lora-rank", "0", *LARGE),
    "lora": ("opsd", "--lora-rank", "8", *LARGE),
    "selective": ("opsd", "--lora-rank", "0", "--gradient-checkpointing", "selective", *LARGE),
    "recomputed": (
        "grpo", "--lora-rank", "0", "--gradient-checkpointing",
        "--prompts", "4", "--per-prompt", "4", "--max-tokens", "32",
    ),
}  # fmt: skip
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""So that the C library gives back what is freed. Left to itself it keeps holes between what it could not fit into
them, from run to run others (docs/sizes.md)."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama of 29 million weights."""
    return str(tiny_model_folder(tmp_path_factory.mktemp("large"), width=512, layers=11))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are measured as Linux counts them")
@pytest.mark.parametrize("name", RUNS)
def test_the_predicted_peak_is_within_15_percent_of_the_measured_one(
    name: str, large: str, tmp_path: Path
) -> None:
    model = () if name == "arena" else ("--model", large)
    words = [*RUNS[name], *model, "--task", "table", "--steps", "2", "--out", str(tmp_path / "run")]
    quiet = ["--device", "cpu", "--eval-problems", "0", "--samples-every", "0"]
    program = [sys.executable, str(Path(__file__).with_name("peaks.py")), *words, *quiet]
    environment = {**os.environ, **RETURNED, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.15), found
    if name != "arena":  # of a tiny model the program itself is nearly all
        beyond = found["peak"] - found["before"]
        assert found["predicted"] - found["now"] == pytest.approx(beyond, rel=0.3), found
