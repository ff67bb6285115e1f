"""Programs that a model wrote, run where they can do no harm: one process without network, files or neighbors.

Each runs in a process of its own under limits of time, memory and files, with an empty folder, no environment
variables and Python's standard library alone. Linux namespaces hide files, processes and the network; a filter of
system calls (seccomp) refuses other processes, sockets and signals. Where the kernel gives no namespaces the filter
alone is not enough: a container around the whole run has to hide the files, and the user has to say that it does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from selfteach.sandbox.confined import Isolation, Limits, confined, in_memory, pipe, text_of

How = Literal["exited", "timed out", "killed"]
REPORT_BYTES = 1 << 16


@dataclass(frozen=True)
class Ended:
    """How a program ended: ``how``, its exit ``status`` (None where it was killed), and what it printed on its standard
    ``output`` and ``errors`` (of a long text the beginning)."""

    how: How
    status: int | None
    output: str
    errors: str
    seconds: float = 0.0
    """That it ran, on the clock."""

    @property
    def fine(self) -> bool:
        return self.how == "exited" and self.status == 0


@dataclass(frozen=True)
class Tested:
    """How a program's tests went: ``passed``, of those ``of`` that were tried.

    ``failed``: of the first that failed the ``test``, ``why`` and the last ``call`` that it made; None if none did.
    ``fault``: what is wrong with the tests themselves, None if nothing is. ``timed_out``: the time was up before their
    end, during the test ``at``.
    """

    passed: int
    of: int
    failed: dict[str, str] | None = None
    fault: str | None = None
    timed_out: bool = False
    at: str = ""

    @property
    def fine(self) -> bool:
        """Whether there was a test, and every one passed."""
        return (
            not self.timed_out and self.fault is None and self.failed is None and 0 < self.passed == self.of
        )


def run(
    program: str, stdin: str = "", limits: Limits | None = None, isolation: Isolation = "namespaces"
) -> Ended:
    """Run a Python program as a file is run, with ``stdin`` on its standard input.

    UserError where this machine has no sandbox of this ``isolation``.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        given, output, errors = (stack.enter_context(in_memory(text)) for text in (stdin, "", ""))
        order = {"act": "run", "program": program}
        process = stack.enter_context(confined(order, limits, isolation, given, output, errors))
        process.begun()
        began = time.monotonic()
        status = process.ended(limits.seconds)
        seconds = time.monotonic() - began
        process.end()
        how: How = "timed out" if status is None else "killed" if status < 0 else "exited"
        printed = text_of(output, limits.output), text_of(errors, limits.output)
        return Ended(how, status if how == "exited" else None, *printed, seconds)


def check(
    program: str,
    tests: Mapping[str, Any],
    *,
    starter: str = "",
    limits: Limits | None = None,
    isolation: Isolation = "namespaces",
) -> Tested:
    """Run tests against a program, the two in sandboxes of their own: the program is told the arguments of calls and
    gives values; it sees neither the tests nor what they expect, and compares nothing. The time limit is of all tests.

    ``tests``: ``{"source": …}``, Python with assertions, calls and functions ``test_…`` that name what the program
    defines; or ``{"calls": [(name, arguments, expected), …]}`` of JSON values. ``starter``: what the program goes on
    from, where it is no whole one. UserError where this machine has no sandbox of this ``isolation``.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        asked, ask = pipe(stack)
        told, tell = pipe(stack)
        report, errors = (stack.enter_context(in_memory("")) for _ in range(2))
        serving = confined(
            {"act": "serve", "program": program, "starter": starter}, limits, isolation, asked, tell, errors
        )
        checking = confined({"act": "check", "tests": tests}, limits, isolation, told, ask, report)
        both = [stack.enter_context(one) for one in (serving, checking)]
        for end in (asked, ask, told, tell):
            end.close()  # each has two holders now: where one of them ends, the other reads the end of a file
        for one in both:
            one.begun()
        late = both[1].ended(limits.seconds) is None
        for one in reversed(both):  # the tests' side first: it would say that the program has ended
            one.end()
        return tested(text_of(report, REPORT_BYTES), late)


def tested(written: str, late: bool) -> Tested:
    """What the report of the tests' side says; of one that did not come to an end, that it did not."""
    try:
        # Without halves of surrogate pairs, which a program's words may hold and no text may.
        told = json.loads(json.dumps(json.loads(written), ensure_ascii=False).encode("utf-8", "replace"))
    except ValueError:
        told = {}
    passed, of, failed = told.get("passed", 0), told.get("of", 0), told.get("failed")
    at = told.get("at", "")
    if late:
        return Tested(passed, of, failed, timed_out=True, at=at)
    if told.get("done"):
        return Tested(passed, of, failed, told.get("fault"))
    return Tested(passed, of, failed or {"test": at, "why": "the tests came to no end", "call": ""})


@cache
def require_sandbox(isolation: Isolation) -> None:
    """UserError, one line, where this machine has no sandbox of this kind."""
    run("", isolation=isolation)
