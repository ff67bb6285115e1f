"""Runs that a comparison starts end when it does, however that is; with real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from selfteach.errors import UserError
from selfteach.studies.children import STOPPED, Children
from selfteach.studies.runs import Planned, bring_to_end, finish
from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows

CHILD = textwrap.dedent("""
    import os, signal, sys, time
    from selfteach.child import end_with_parent
    def told(*_):
        os.write(ended, b"told")
        sys.exit(130)
    ended = os.open(sys.argv[1], os.O_WRONLY)
    signal.signal(signal.SIGTERM, told)
    end_with_parent()
    os.write(ended, b"begun ")
    while True:
        time.sleep(1)
""")
"""Writes into a pipe when it begins and when it is told to end; the pipe ends when it has ended."""

PARENT = textwrap.dedent("""
    import os, signal, sys
    from selfteach.studies.children import Children, terminated_as_interrupted
    from concurrent.futures import ThreadPoolExecutor
    # Whoever runs the tests in the background, or under nohup, has them ignored, and so would they be here.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    children = Children()
    with terminated_as_interrupted(), ThreadPoolExecutor(1) as pool:
        end = pool.submit(children.run, sys.argv[1:], sys.stderr.buffer, os.environ)
        try:
            end.result()
        except KeyboardInterrupt:
            children.stop()
            print("ended with", end.result())
""")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_is_told_to_end_once_its_parent_is_gone(sent: signal.Signals, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    child = [sys.executable, "-c", CHILD, str(tmp_path / "fifo")]
    program = [sys.executable, "-c", PARENT, *child]
    parent = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    with (tmp_path / "fifo").open("rb") as ended:
        assert ended.read(6) == b"begun "
        parent.send_signal(sent)
        # No more than this: told once, and then the pipe's end, which comes when the child has ended.
        assert ended.read() == b"told"
    said, _ = parent.communicate()
    if sent in (signal.SIGTERM, signal.SIGINT):
        assert said == "ended with 130\n"
    else:
        assert parent.returncode == -sent


DEAF = textwrap.dedent("""
    import os, signal, sys, time
    from selfteach.child import end_with_parent
    ended = os.open(sys.argv[1], os.O_WRONLY)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent(grace=0.1)
    os.write(ended, b"begun ")
    while True:
        time.sleep(1)
""")


def test_a_child_that_does_not_end_is_killed_some_time_after_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    program = [sys.executable, "-c", PARENT, sys.executable, "-c", DEAF, str(tmp_path / "fifo")]
    parent = subprocess.Popen(program)
    with (tmp_path / "fifo").open("rb") as ended:
        assert ended.read(6) == b"begun "
        parent.kill()
        assert ended.read() == b""  # the pipe's end: it comes when the child has ended
    assert parent.wait() == -signal.SIGKILL


def test_nothing_is_started_after_a_stop(tmp_path: Path) -> None:
    children = Children()
    children.stop()
    with (tmp_path / "log").open("wb") as log:
        assert children.run([sys.executable, "-c", "raise SystemExit(3)"], log, os.environ) == STOPPED
    with (tmp_path / "log").open("wb") as log:
        assert Children().run([sys.executable, "-c", "raise SystemExit(3)"], log, os.environ) == 3


FEW = [
    "--prompts",
    "2",
    "--max-tokens",
    "8",
    "--eval-problems",
    "2",
    "--eval-samples",
    "1",
    "--device",
    "cpu",
    "--samples-every",
    "0",
]
COMMANDS = {
    "compare": ["opsd", "sft", "--seeds", "1", "--steps", "100000", "--equal", "steps", "--", *FEW],
    "study": ["pw-opsd", "--seeds", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_comparison_that_is_ended_leaves_no_run_in_training(
    command: str, sent: signal.Signals, tmp_path: Path
) -> None:
    """The run it had started is saved after its step, and no other is begun."""
    out = tmp_path / "out"
    words = [sys.executable, "-m", "selfteach", command, "--out", str(out), *COMMANDS[command]]
    parent = subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = in_training(out, parent)
    parent.send_signal(sent)
    _, said = parent.communicate()
    assert parent.returncode == (-sent if sent is signal.SIGKILL else 130), said
    assert "Traceback" not in said
    with FileLock(run / ".lock"):  # held by the run as long as it lives
        assert not (run / "summary.json").exists()
        last = checkpoint.latest(run)
        assert last is not None
        assert checkpoint.step_of(last) == read_rows(run / "metrics.jsonl")[-1]["step"]
        assert "interrupted" in run.with_name(f"{run.name}.log").read_text()
        assert [path.parent for path in out.rglob("config.toml")] == [run]


def in_training(out: Path, parent: subprocess.Popen[str]) -> Path:
    """The first run that has made a step."""
    while parent.poll() is None:
        for path in out.rglob("metrics.jsonl"):
            if any("loss" in row for row in read_rows(path)):
                return path.parent
        time.sleep(0.05)
    raise AssertionError(parent.communicate()[1])


# --- a run that fails

FAILING = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    out, name = Path(sys.argv[1]), sys.argv[2]
    (out / name).write_text("")
    if name == "broken":
        while not (out / "long").exists():
            time.sleep(0.01)
        sys.exit("no such data")
    from selfteach.child import end_with_parent
    end_with_parent()
    for _ in range(15):
        time.sleep(1)
    (out / "to its end").write_text("")
""")
"""In place of ``selfteach.child``: "broken" fails once "long" is in training, which goes on until it is ended."""


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_that_fails_ends_the_others_and_none_is_begun(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Children.run

    def run(self: Children, command: list[str], log: Any, env: Any) -> int:
        return own(self, [sys.executable, "-c", FAILING, str(tmp_path), command[-1]], log, env)

    monkeypatch.setattr(Children, "run", run)
    first = ["broken", "long"] if place == 0 else ["long", "broken"]
    runs = [Planned(name, 0, tmp_path / f"run-{name}", [name]) for name in (*first, "later", "last")]
    with pytest.raises(UserError, match=r"broken seed 0 ended with code 1 \(no such data\)"):
        finish(runs, jobs=2)
    assert not (tmp_path / "later").exists()
    assert not (tmp_path / "last").exists()
    assert not (tmp_path / "to its end").exists()


def test_a_run_that_another_ends_says_nothing_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was ended in training or, as here, not begun any more."""

    def run(self: Children, *_: Any) -> int:
        self.close()
        return STOPPED

    monkeypatch.setattr(Children, "run", run)
    bring_to_end(Planned("long", 0, tmp_path / "run", ["long"]), {}, Children())
    monkeypatch.setattr(Children, "run", lambda *_: 1)
    with pytest.raises(UserError, match="long seed 0 ended with code 1"):
        bring_to_end(Planned("long", 0, tmp_path / "run", ["long"]), {}, Children())


def test_an_error_of_any_kind_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written, while another run is in training."""
    own = Children.run

    def run(self: Children, command: list[str], log: Any, env: Any) -> int:
        return own(self, [sys.executable, "-c", FAILING, str(tmp_path), command[-1]], log, env)

    monkeypatch.setattr(Children, "run", run)
    (tmp_path / "run-lost.log").mkdir()
    runs = [Planned(name, 0, tmp_path / f"run-{name}", [name]) for name in ("long", "lost", "later")]
    with pytest.raises(IsADirectoryError):
        finish(runs, jobs=2)
    assert not (tmp_path / "later").exists()
    assert not (tmp_path / "to its end").exists()
