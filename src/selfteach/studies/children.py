"""Commands run as processes of their own that never outlive this one."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

STOPPED = -1
"""Instead of an exit code: the process was not even started."""


class Children:
    """Processes that have ``selfteach.child`` within them, so that they end when their standard input is closed.

    They are no part of the terminal's group of processes: Ctrl-C reaches this process alone, which tells each of them
    once. Any thread may call. ``closed``: no other is started.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self.closed = False

    def run(self, command: Sequence[str], log: IO[bytes], env: Mapping[str, str]) -> int:
        """Run a command to its end, its output to ``log``; its exit code, or STOPPED."""
        process = self._started(command, env, stdout=log, stderr=log)
        if process is None:
            return STOPPED
        try:
            return process.wait()
        finally:
            self.forget(process)

    def start(
        self, command: Sequence[str], env: Mapping[str, str], *inherited: int
    ) -> subprocess.Popen[bytes] | None:
        """A process whose standard output is a pipe, and that has these descriptors; None where none is started any
        more. ``forget`` it when it has ended."""
        return self._started(command, env, stdout=subprocess.PIPE, pass_fds=inherited)

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """Of a process that has ended nothing is to be done any more."""
        with self._lock:
            self._alive.discard(process)

    def _started(
        self, command: Sequence[str], env: Mapping[str, str], **how: Any
    ) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self.closed:
                return None
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, env=dict(env), start_new_session=True, **how
            )
            self._alive.add(process)
            return process

    def close(self) -> None:
        """Start no other; those that are running go on."""
        with self._lock:
            self.closed = True

    def stop(self) -> None:
        """Tell all to end, start no other, and wait until they have ended. Interrupted once more, kill them."""
        with self._lock:
            self.closed, alive = True, list(self._alive)
        for process in alive:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
        try:
            for process in alive:
                process.wait()
        except BaseException:
            for process in alive:
                process.kill()
            raise


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within it SIGTERM is a KeyboardInterrupt, so that what is begun is brought in order."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
