"""Several processes under torchrun: a refusal is said once, whoever meets it, and all of them exit with its code."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launched import ALONE
from selfteach.training.spoken import is_mine_to_say

HERE = Path(__file__).parent


def launched(
    folder: Path, *words: str, how: tuple[str, ...] = ("--standalone",)
) -> tuple[list[str], list[str]]:
    """(the lines of ``selfteach:``, the exit codes of two processes by their number)."""
    program = [sys.executable, "-m", "torch.distributed.run", *how, "--nproc-per-node", "2"]
    done = subprocess.run(
        [*program, str(HERE / "exit_codes.py"), str(folder), *words],
        env=ALONE, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "selfteach: " in line]
    return lines, [(folder / rank).read_text() for rank in ("0", "1") if (folder / rank).exists()]


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["0", "1"])
def test_what_all_processes_refuse_before_they_meet_is_said_once_however_late_one_comes(
    tmp_path: Path, slow: str
) -> None:
    lines, codes = launched(tmp_path, "--slow", slow, "train", "opsd", "--lr", "much")
    assert len(lines) == 1, lines
    assert "--lr" in lines[0]
    assert codes == ["2", "2"]


@pytest.mark.slow
def test_under_torchrun_without_further_words(tmp_path: Path) -> None:
    """Its rendezvous is another one then; the port is any free one here."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    lines, codes = launched(tmp_path, "trian", how=("--master-port", str(port)))
    assert len(lines) == 1, lines
    assert codes == ["2", "2"]


@pytest.mark.slow
def test_what_the_first_process_refuses_for_all_is_said_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("")
    lines, codes = launched(tmp_path, "train", "opsd", "--steps", "1", "--device", "cpu", "--out", str(run))
    assert len(lines) == 1, lines
    assert codes == ["2", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_one_process_alone_meets_is_said(tmp_path: Path, rank: str) -> None:
    lines, codes = launched(tmp_path, "--only", rank)
    assert lines == [f"selfteach: only process {rank} met this: do something"]
    assert codes[int(rank)] == "2" if len(codes) == 2 else codes == ["2"]


def test_a_process_alone_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert is_mine_to_say("a")
    assert is_mine_to_say("a")


def test_where_nobody_keeps_a_store_each_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that has gone, say: nothing is lost."""
    gone = {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
        "RANK": "0",
    }
    for name, value in gone.items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(2) as pool:  # not in the main thread, which would no longer hear SIGTERM
        assert list(pool.map(is_mine_to_say, ["a", "a"])) == [True, True]
