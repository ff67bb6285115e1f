"""Ctrl-C: the first lets the step end and the run be saved, the second ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user pressed Ctrl-C; the run in the folder this names can be resumed where it stopped."""


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C; a second one ends the process at once."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield pressed
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
