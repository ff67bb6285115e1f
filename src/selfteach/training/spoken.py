"""Several processes that have the same to say: one of them says it, the first one where it can."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

PATIENCE = 5.0
"""Seconds that the first process has to say it before another one does: of launched processes one may be slower."""
LOOK = 0.05
MEETING = timedelta(seconds=5)


def is_mine_to_say(text: str) -> bool:
    """Whether this process is to print the text: no other of its launch (torchrun, accelerate) says the same.

    Processes need not meet for it, and may have different things to say, or nothing: each text is said once, by the
    first process if it has it within ``PATIENCE``. They agree through the store that the launcher keeps; without one,
    or where it does not answer, each speaks for itself. From here on SIGTERM is not heard, which a launcher sends to
    the others as soon as one has ended: this process is about to end by itself, with its own exit code.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return True
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(DistError, RuntimeError, ValueError, KeyError):
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=MEETING)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        key = f"selfteach/said/{attempt}/{sha256(text.encode('utf-8', 'replace')).hexdigest()}"
        until = time.monotonic() + (0 if os.environ["RANK"] == "0" else PATIENCE)
        while time.monotonic() < until and not store.check([key]):
            time.sleep(LOOK)
        return store.add(key, 1) == 1
    return True
