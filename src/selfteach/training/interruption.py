"""Ctrl-C, or a scheduler's SIGTERM: the first lets the step end and the run be saved, the second ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user pressed Ctrl-C, or the process was told to end; the run in the folder this names is saved, and can be
    resumed where it stopped."""


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C or SIGTERM; a second one ends the process at once."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
