"""``python -m selfteach.child COMMAND …``: a command that ends when the program that started it does.

That program holds the other end of standard input and writes nothing there: the system closes it however the program
ends, by SIGKILL too. The command is then told to end as by a scheduler (SIGTERM): a run in training ends its step and
is saved.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def end_with_parent() -> None:
    """Send this process SIGTERM, once, when its standard input is closed."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "selfteach"
    runpy.run_module("selfteach", run_name="__main__")
