"""``python -m selfteach.worker FD``: training runs one after another in one process, which imports its libraries once.

Each line that the descriptor FD gives is a JSON object with ``words`` (those after ``selfteach``) and ``log`` (a file
that the run's output is added to); when the run has ended its exit code is a line of standard output. Runs are those of
``selfteach train``, but that no report is made of them, and that preflight is left out where the same words but for
seed and folder have passed it here. The process ends with the program that started it, as ``selfteach.child`` does, and
after a run that was interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from selfteach.child import end_with_parent

INTERRUPTED = 130


def serve(commands: int) -> None:
    """Make the runs that the descriptor names, until it is closed."""
    answers = os.dup(1)
    passed: set[tuple[str, ...]] = set()
    with os.fdopen(commands, encoding="utf-8") as lines:
        for line in lines:
            asked = json.loads(line)
            with written_to(asked["log"]):
                code = one_run(asked["words"], passed)
            with suppress(BrokenPipeError):  # nobody is left to hear it
                os.write(answers, f"{code}\n".encode())
            if code == INTERRUPTED:
                return


def one_run(words: Sequence[str], passed: set[tuple[str, ...]]) -> int:
    """The exit code of ``selfteach WORDS`` without a report."""
    from selfteach.cli import guarded

    def run() -> int:
        from selfteach.cli.train import trained
        from selfteach.words import taken

        alike = tuple(taken(taken(words[1:], "seed")[0], "out")[0])
        trained(words[1:], check=alike not in passed)
        passed.add(alike)
        return 0

    try:
        return guarded(run, words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def written_to(log: str) -> Iterator[None]:
    """Within it all that this process says goes to the end of a file."""
    kept = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, one in zip((1, 2), kept, strict=True):
            os.dup2(one, number)
            os.close(one)
        os.close(file)


if __name__ == "__main__":
    end_with_parent()
    serve(int(sys.argv[1]))
