"""``python -m selfteach.child COMMAND …``: a command that ends when the program that started it does.

That program holds the other end of standard input and writes nothing there: the system closes it however the program
ends, by SIGKILL too. The command is then told to end as by a scheduler (SIGTERM): a run in training ends its step and
is saved. What has not ended after ``GRACE`` seconds, within a long step or pass of sampling, and whose parent is gone,
is killed (SIGKILL): the last checkpoint stays, and a run goes on from there bit for bit.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE = 60.0
"""Seconds between SIGTERM and SIGKILL."""


def end_with_parent(grace: float = GRACE) -> None:
    """Send this process SIGTERM, once, when its standard input is closed, and SIGKILL after ``grace`` seconds or as
    soon thereafter as its parent is gone: one that lives waits for it, or kills it."""

    parent = os.getppid()

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "selfteach"
    runpy.run_module("selfteach", run_name="__main__")
