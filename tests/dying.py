"""A program that sends itself a signal at a file operation: killed at a known moment, without a race against the clock.

python dying.py SIGKILL checkpoints/step-2 -m selfteach train …
python dying.py SIGINT metrics.jsonl script.py …
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def dies(words: Sequence[str], moment: str, sent: signal.Signals, env: Mapping[str, str]) -> str:
    """Run ``python words`` until it has sent itself the signal right after a path that ends in ``moment`` was touched.

    Returns what it wrote to stderr. AssertionError if it ended in another way than by SIGKILL, or with 130 by SIGINT.
    """
    program = [sys.executable, str(Path(__file__)), sent.name, moment, *words]
    done = subprocess.run(program, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == (130 if sent is signal.SIGINT else -sent), done.stderr[-2000:]
    return done.stderr


def arm(sent: signal.Signals, moment: str) -> None:
    """Send the signal at the first file operation after one on a path that ends in ``moment`` (Python audits each)."""
    state = "waiting"

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal state
        if event != "open" and not event.startswith(("os.", "shutil.")):
            return
        if state == "met":
            state = "sent"
            os.kill(os.getpid(), sent)
        elif state == "waiting" and any(ends_in(moment, one) for one in arguments):
            state = "met"

    sys.addaudithook(watch)


def ends_in(moment: str, argument: object) -> bool:
    return isinstance(argument, str | bytes | os.PathLike) and os.fsdecode(argument).endswith(moment)


if __name__ == "__main__":
    name, moment, *words = sys.argv[1:]
    arm(signal.Signals[name], moment)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
