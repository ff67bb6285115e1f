"""The number of processes does not change what is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from launched import assert_same, selfteach, train
from selfteach.training.jsonrows import read_rows


@pytest.mark.slow
def test_two_processes_share_an_evaluation_and_get_what_one_gets(tmp_path: Path) -> None:
    more = ("--steps", "1", "--eval-problems", "70", "--eval-samples", "4", "--max-tokens", "24")
    train(tmp_path / "one", 1, *more)
    train(tmp_path / "two", 2, *more)
    first = [read_rows(tmp_path / name / "metrics.jsonl")[0] for name in ("one", "two")]
    assert first[0]["eval/problems"] == 70
    assert 0 < first[0]["eval/headline"] < 1
    assert first[0] == first[1]
    before = [
        [row for row in read_rows(tmp_path / name / "samples.jsonl") if row["phase"] == "before"]
        for name in ("one", "two")
    ]
    assert before[0] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["frozen", "ema"])
def test_two_processes_compute_what_one_does(tmp_path: Path, weights: str) -> None:
    train(tmp_path / "one", 1, "--weights", weights)
    train(tmp_path / "two", 2, "--weights", weights, "--micro-batch", "2")
    assert_same(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("turns", ["101323", "123000"])
def test_processes_with_unequal_numbers_of_rows_compute_what_one_does(tmp_path: Path, turns: str) -> None:
    """Turns that are rows of their own; of a prompt, a minibatch or the whole batch a process may have nothing."""
    more = ("--minibatches", "3", "--max-unavailable", "1", "--lr", "2e-4", "--metrics-tokens", "60")
    train(tmp_path / "one", 1, *more, script=("uneven.py", turns))
    train(tmp_path / "two", 2, *more, "--micro-batch", "3", script=("uneven.py", turns))
    assert_same(tmp_path)
    # The teacher reads its privilege behind later turns too.
    assert read_rows(tmp_path / "one" / "metrics.jsonl")[0]["unavailable/teacher"] == 0


@pytest.mark.slow
def test_a_run_goes_on_with_as_many_processes_as_it_was_begun_with(tmp_path: Path) -> None:
    """The stored answers of a stage are divided among the processes, as are prompts and random states."""
    stored = ("opsd", "--stored", "8", "--steps", "2")
    for begun, other in ((2, 1), (1, 2)):
        out = tmp_path / str(begun)
        done = selfteach(begun, *stored, "--out", str(out))
        assert done.returncode == 0, done.stderr[-3000:]
        assert f'processes = "{begun}"' in (out / "config.toml").read_text()
        (out / "summary.json").unlink()
        refused = selfteach(other, "--out", str(out), "--resume")
        assert refused.returncode != 0
        said = next(line for line in refused.stderr.splitlines() if line.startswith("selfteach: "))
        assert f"begun with {begun} process" in said
        assert f"not with {other} process" in said
        assert ("--nproc-per-node 2" in said) == (begun == 2)
        assert "selfteach/cli" not in refused.stderr  # the launcher has a traceback of its own
        assert not (out / "summary.json").exists()
        assert selfteach(begun, "--out", str(out), "--resume").returncode == 0
