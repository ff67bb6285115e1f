"""What a process says when another one of its run is gone, or does not answer in time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from selfteach.errors import UserError

TRANSPORT = "gloo/transport/"
"""What gloo's own errors, plain RuntimeErrors, name: where in its source they were raised."""


class PeerLost(UserError):
    """Another process of the run has ended, or hangs."""


def lost(error: BaseException) -> str | None:
    """What the connection to the other processes said as it broke, in some words; None: the error is another."""
    text = " ".join(str(error).split())
    if not isinstance(error, DistError) and not (isinstance(error, RuntimeError) and TRANSPORT in text):
        return None
    said = text.rpartition("] ")[2] if TRANSPORT in text else text
    return said.split(". ")[0][:160].rstrip(".")


@contextmanager
def answering(saved: Callable[[], str]) -> Iterator[None]:
    """Within it a broken connection to the other processes is a ``PeerLost``. ``saved``: what of the run is safe."""
    try:
        yield
        return
    except Exception as error:
        if (said := lost(error)) is None:
            raise
        if threading.current_thread() is threading.main_thread():
            # A launcher ends the others as soon as one has ended; this one has something to say first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise PeerLost(
        f"another process of this run has ended or does not answer ({said}): what it said itself, before this, tells "
        f"why; {saved()}"
    )
