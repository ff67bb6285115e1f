"""How many threads a model computes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from selfteach.training import threads
from selfteach.training.threads import SMALL, on_threads, small_folder, threads_of
from tiny import tiny_model_folder

LITTLE, LARGE = nn.Linear(10, 10), nn.Linear(SMALL // 1000, 1000)


@pytest.fixture(autouse=True)
def four_at_first(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores, whose user has chosen nothing."""
    before = torch.get_num_threads()
    for name in threads.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "torchs_own", lambda: {4})
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_a_small_model_computes_on_one_and_a_large_one_on_all() -> None:
    assert threads_of(LITTLE) == 1
    assert threads_of(LARGE) is None


@pytest.mark.parametrize("name", threads.CHOSEN)
def test_a_user_who_has_chosen_is_heeded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "4")
    assert threads_of(LITTLE) is None


def test_small_models_that_are_large_together_are_large() -> None:
    half = nn.Linear(SMALL // 2000, 1000)
    assert threads_of(half) == 1
    assert threads_of(half, half, LITTLE) is None


def test_a_teacher_that_is_not_loaded_yet_is_judged_by_its_files(tmp_path: Path) -> None:
    assert small_folder("arena:tutor-large")
    assert not small_folder("somebody/somewhere")
    (tmp_path / "model.safetensors").write_bytes(bytes(4 * SMALL))
    assert not small_folder(str(tmp_path))


def test_torch_takes_a_thread_for_each_core_by_itself() -> None:
    code = (
        "import torch; from selfteach.training.threads import torchs_own; "
        "print(torch.get_num_threads() in torchs_own())"
    )
    env = {name: value for name, value in os.environ.items() if name not in threads.CHOSEN}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def test_so_is_one_who_has_told_torch() -> None:
    torch.set_num_threads(3)
    assert threads_of(LITTLE) is None


def test_a_model_elsewhere_is_no_matter_of_threads() -> None:
    assert threads_of(nn.Linear(10, 10, device="meta")) is None


@pytest.mark.parametrize(("count", "within"), [(1, 1), (None, 4)])
def test_the_caller_gets_its_threads_back(count: int | None, within: int) -> None:
    def failing() -> None:
        with on_threads(count):
            assert torch.get_num_threads() == within
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.get_num_threads() == 4


def trained(folder: Path, cores: int, **environment: str) -> str:
    """What a run said on a machine of so many cores."""
    env = {name: value for name, value in os.environ.items() if name not in threads.CHOSEN} | environment
    words = f"--model {tiny_model_folder(folder / 'model')} --task table --steps 1 --prompts 4 --max-tokens 4"
    words += " --eval-problems 0"
    code = (
        f"import torch; torch.set_num_threads(2); from selfteach.training import threads\n"
        f"threads.torchs_own = lambda: {{{cores}}}\n"
        "from selfteach.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "train", "opsd", *words.split(), "--out", str(folder / "run")],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def test_a_run_says_so_and_keeps_it_in_its_record(tmp_path: Path) -> None:
    assert "one thread" in trained(tmp_path / "a", 2)
    assert threads_in(tmp_path / "a") == "1"
    assert "one thread" not in trained(tmp_path / "b", 2, OMP_NUM_THREADS="2")
    assert threads_in(tmp_path / "b") == "2"
    assert "one thread" not in trained(tmp_path / "c", 8)  # of eight cores a user wants two threads
    assert threads_in(tmp_path / "c") == "2"


def threads_in(folder: Path) -> str:
    found: str = tomllib.loads((folder / "run" / "config.toml").read_text())["versions"]["threads"]
    return found
