"""Ctrl-C, or a scheduler's SIGTERM: the first lets the step end and the run be saved, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TOLD = (
    "interrupted: stops after this step, saved; once more (Ctrl-C or SIGTERM) stops now, to go on from the last "
    "checkpoint"
)


class Interrupted(Exception):
    """The user pressed Ctrl-C, or the process was told to end; the run in the folder this names is saved, and can be
    resumed where it stopped."""


@contextmanager
def interruption(say: Callable[[str], None]) -> Iterator[list[int]]:
    """A list that is empty until the first Ctrl-C or SIGTERM, which is said at once; a second one ends the process:
    Ctrl-C as a KeyboardInterrupt, SIGTERM as the system does."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield pressed
        return
    with heard(lambda: say(TOLD)) as tell:

        def note(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            pressed.append(number)
            tell()

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield pressed
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def heard(then: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """A function that a signal's handler may call: ``then`` is called by another thread, for what the handler broke
    into may hold the locks of a stream or a display. Whatever was told is done when the context ends."""
    ear, mouth = os.pipe()

    def listen() -> None:
        while os.read(ear, 1):
            then()

    thread = threading.Thread(target=listen, daemon=True, name="interruption")
    thread.start()

    def tell() -> None:
        os.write(mouth, b"!")

    try:
        yield tell
    finally:
        os.close(mouth)
        thread.join()
        os.close(ear)
