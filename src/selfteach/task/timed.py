"""Run a function on untrusted text in a worker process, under a deadline that holds.

A computer-algebra call may hang in C, recurse, or eat all memory; a signal or a thread cannot stop it, killing
its process can. The worker speaks JSON lines over pipes, so nothing is ever unpickled, and it is started with
``-c`` rather than by ``multiprocessing``, so a user's script needs no ``__main__`` guard. Every reply carries its
question's number, and a worker whose caller was interrupted is replaced: no reply is taken for another's.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, Literal

START_SECONDS = 120.0
MEMORY_BYTES = 4 << 30
ORPHAN_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a timed call ended. ``value`` is the function's result if it is "done"; else ``reason`` says why not."""

    status: Literal["done", "raised", "timed out", "died"]
    value: Any = None
    reason: str = ""


class TimedWorker:
    """One worker process, started at the first call, killed and replaced when a call outlives its deadline.

    ``warm_up`` is called once in every new worker before it counts as started, so that imports and first-use
    caches are not charged to the first caller's deadline. Calls are serialized; threads may share a worker. The
    worker runs with a fixed string-hash seed, so a function that iterates over sets gives the same in each run.
    ``memory``: the bytes of address space that it may have (Linux; None: as many as this process).
    """

    def __init__(self, warm_up: Callable[[], object], memory: int | None = MEMORY_BYTES) -> None:
        self._warm_up, self._memory = warm_up, memory
        self._forget()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def call(self, function: Callable[..., Any], *arguments: Any, seconds: float) -> Outcome:
        """``function(*arguments)`` in the worker, at most ``seconds`` long.

        ``function`` is a module's top-level function; ``arguments`` and the result are JSON values. Raises
        RuntimeError only if no worker can be started. An interrupt (Ctrl-C) is passed on, and ends the worker: the next
        call starts another.
        """
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                outcome = self._ask(function, arguments, seconds)
            except BaseException:  # a reply is still to come, or half a question is in the pipe
                self._stop()
                raise
            if outcome.status in ("timed out", "died"):
                self._stop()
            return outcome

    def close(self) -> None:
        """End the worker process; the next call would start another."""
        with self._lock:
            self._stop()

    def _forget(self) -> None:
        """Own no process: at birth, and in a forked child, whose parent goes on talking to the worker."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._asked = 0
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _start(self) -> None:
        self._stop()
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({self._memory})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            self._replies = queue.SimpleQueue()
            reader = (self._process.stdout, self._replies)
            threading.Thread(target=_pump, args=reader, daemon=True, name="timed-worker-reader").start()
            outcome = self._ask(self._warm_up, (), START_SECONDS)
            if outcome.status != "done":
                self._stop()
                complaints.seek(0)
                why = f"{outcome.reason}\n{complaints.read()[-2000:]}"
                raise RuntimeError(f"the checking process did not start: {why}")

    def _ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], seconds: float) -> Outcome:
        assert self._process is not None
        assert self._process.stdin is not None
        self._asked += 1
        request = {
            "number": self._asked,
            "function": [function.__module__, function.__qualname__],
            "arguments": arguments,
            "seconds": seconds,
        }
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            reply = self._reply(self._asked, seconds)
        except queue.Empty:
            return Outcome("timed out", reason=f"longer than {seconds:g} s")
        except BrokenPipeError:
            reply = None
        if reply is None:
            return Outcome("died", reason="the checking process ended (out of memory, or a crash)")
        return Outcome(**reply)

    def _reply(self, number: int, seconds: float) -> dict[str, Any] | None:
        """What was said to question ``number``, None if the worker has ended (or says what is no reply); queue.Empty
        after ``seconds``."""
        deadline = time.monotonic() + seconds
        while line := self._replies.get(timeout=max(0.0, deadline - time.monotonic())):
            try:
                reply: dict[str, Any] = json.loads(line)
                if reply.pop("number") == number:
                    return reply
            except (ValueError, KeyError, AttributeError):
                return None
        return None

    def _stop(self) -> None:
        # It is nobody's from here on: whoever interrupts this is not left with a worker that is about to die.
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                # What it has started itself goes with it: it leads a session of its own.
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # what was still buffered has no reader any more
                process.stdin.close()


def _pump(stream: IO[str], replies: queue.SimpleQueue[str]) -> None:
    """Hand on the worker's lines, then an empty one: it has ended."""
    with stream:
        for line in stream:
            replies.put(line)
    replies.put("")


def serve(memory: int | None) -> None:
    """The worker's life: read a request, call, reply, until the pipe closes. Runs in the child process only."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    if sys.platform == "linux" and memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for count, line in enumerate(requests):
        request = json.loads(line)
        replies.write(json.dumps({"number": request["number"], **_answer(request)}) + "\n")
        replies.flush()
        if count == 0:
            os.dup2(nowhere, 2)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    module, name = request["function"]
    if hasattr(signal, "setitimer"):
        # The kernel ends a hung worker even if the parent that should kill it is gone.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + ORPHAN_GRACE_SECONDS)
    try:
        value = getattr(import_module(module), name)(*request["arguments"])
        return {"status": "done", "value": value}
    except Exception as error:
        return {"status": "raised", "reason": f"{type(error).__name__}: {error}"[:500]}
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
