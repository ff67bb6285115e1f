"""A confined process: how it is started, how it says that it is confined, and how it is ended for certain."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from selfteach.errors import UserError

Isolation = Literal["namespaces", "container"]
"""What hides the user's files from a program: namespaces of its own, or a container that the user has put around the
whole run."""
HERE = Path(__file__).parent
BEGIN = "import sys; sys.path.insert(0, sys.argv[1]); from inside import process; process.main(*map(int, sys.argv[2:]))"
START_SECONDS, GRACE = 60.0, 2.0
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""All that a program knows of the environment. The seed of hashes is fixed: the same program gives the same."""


@dataclass(frozen=True)
class Limits:
    """Of one program: ``seconds`` on the clock (rounded up, and one more, of processor time), ``memory`` in bytes of
    address space, ``files`` in bytes that it may write, ``output`` in bytes of what it prints that are kept."""

    seconds: float = 5.0
    memory: int = 512 << 20
    files: int = 16 << 20
    output: int = 64 << 10

    def __post_init__(self) -> None:
        if (
            not 0 < self.seconds < math.inf
            or self.memory < 64 << 20
            or min(self.files, self.output) < 1 << 10
        ):
            raise UserError(
                "limits of a program must be positive seconds, memory of 64 MiB at least, files and output of 1 KiB at "
                f"least, not {self.seconds}, {self.memory}, {self.files} and {self.output}"
            )


@dataclass
class Confined:
    """A process on its way into its sandbox, or in it."""

    process: subprocess.Popen[bytes]
    ready: FileIO
    relayed: bool
    """What was started waits for the program, which is a process of its own."""

    def begun(self) -> None:
        """Wait until it is confined and begins. UserError where this machine has no such sandbox."""
        said = b""
        while select.select([self.ready], [], [], START_SECONDS)[0]:
            more = self.ready.read(1000)
            if not more:
                break
            said += more
        if said != b"ready":
            raise UserError(no_sandbox(said.decode(errors="replace") or "its process did not start"))

    def ended(self, seconds: float) -> int | None:
        """Its exit status, negative if a signal ended it; None where it is not over within so many seconds."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Kill it, with all that belongs to it: it leads a session, and what it has forked dies with it."""
        if self.relayed and self.process.poll() is None:
            self.process.terminate()  # it ends the program first, and sees it end
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def confined(
    order: Mapping[str, Any],
    limits: Limits,
    isolation: Isolation,
    stdin: FileIO,
    stdout: FileIO,
    stderr: FileIO,
) -> Iterator[Confined]:
    """Start a process that confines itself and then does as it is told; ended on leaving. ``begun`` must be asked."""
    if sys.platform != "linux":
        raise UserError(no_sandbox("it needs Linux"))
    with ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="selfteach-")
        stack.callback(removed, folder)
        told = {
            **order, "folder": folder, "namespaces": isolation == "namespaces", "memory": limits.memory,
            "files": limits.files, "seconds": math.ceil(limits.seconds) + 1, "parent": os.getpid(),
        }  # fmt: skip
        letter = stack.enter_context(in_memory(json.dumps(told)))
        ready, say = pipe(stack)
        process = started(
            [interpreter(), "-s", "-S", "-P", "-c", BEGIN, str(HERE), str(letter.fileno()), str(say.fileno())],
            stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=(letter.fileno(), say.fileno()), env=ENVIRONMENT,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        one = Confined(process, ready, isolation == "namespaces")
        stack.callback(one.end)
        say.close()
        yield one


def started(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
    """A process; tried again for a while where the machine has no room for one: programs side by side may have taken
    all of it, and each has its time."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            return subprocess.Popen(words, **how)
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(no_sandbox("it has no room for another process")) from None
            time.sleep(0.1)


def removed(folder: str) -> None:
    """Take a folder away, however deep it is by now."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)


def interpreter() -> str:
    """Python as it is without this program's virtual environment, of which nothing is for a model's program."""
    return getattr(sys, "_base_executable", None) or sys.executable


def in_memory(text: str) -> FileIO:
    """A file that has no place on any disk, at its beginning."""
    file = FileIO(os.memfd_create("selfteach"), "r+")
    file.write(text.encode("utf-8", "backslashreplace"))
    file.seek(0)
    return file


def text_of(file: FileIO, most: int) -> str:
    """What a process has written, of ``most`` bytes at most."""
    return os.pread(file.fileno(), most, 0).decode("utf-8", "replace")


def pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    read, write = os.pipe()
    return stack.enter_context(FileIO(read, "r")), stack.enter_context(FileIO(write, "w"))


def no_sandbox(why: str) -> str:
    return (
        f"programs that a model writes run in a sandbox only, and this machine gives none ({why}): run within a "
        "container that holds nothing but what may be lost, and say so (--sandbox container)"
    )
