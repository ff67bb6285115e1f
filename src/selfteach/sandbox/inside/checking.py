"""The tests' side: run them against a program in another process, which sees the arguments of calls and nothing else.

Tests are Python, or calls with the values that they should give.
"""

from __future__ import annotations

import ast
import io
import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from .failing import SAID
from .naming import Solution, defined, modules, wanted
from .remote import SHOWN, Broken, Ended, Kept, Program, shown
from .suites import ASSERTED, counting, found_in, tests_something


class Report:
    """How far the tests have come, written over the standard error after each, so that it is known when time is up."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {
            "passed": 0, "of": 0, "asserted": 0, "failed": None, "fault": None, "done": False,
        }  # fmt: skip

    def write(self, **more: Any) -> None:
        self.told.update(more)
        text = json.dumps(self.told).encode()
        os.ftruncate(2, 0)
        os.pwrite(2, text, 0)

    def trying(self, what: str) -> None:
        self.write(at=what[:SHOWN], of=self.told["of"] + 1)

    def asserted(self) -> None:
        self.told["asserted"] += 1

    def passed(self) -> None:
        self.write(passed=self.told["passed"] + 1)

    def failed(self, what: str, why: str, call: str) -> None:
        if self.told["failed"] is None:
            self.write(failed={"test": what[:SAID], "why": why[: 2 * SAID], "call": call[: 2 * SAID]})


def check(tests: dict[str, Any]) -> None:
    """Run the tests, and write a report. ``tests``: ``{"source"}`` of Python, or ``{"calls"}``, a list of (name,
    arguments, expected)."""
    report = Report()
    program = Program()
    sys.stdout = sys.stderr = io.StringIO()
    try:
        names = program.begun()
        if "calls" in tests:
            try_calls(program, names, tests["calls"], report)
        else:
            try_source(program, names, tests["source"], report)
    except Broken as error:
        report.write(failed={"test": "", "why": str(error), "call": ""})
    except Ended as error:
        report.failed(report.told.get("at", ""), f"the program gave no answer: {error}", program.last)
    report.write(done=True)


def try_calls(program: Program, names: list[str], calls: list[Any], report: Report) -> None:
    for name, arguments, expected in calls:
        what = f"{name}({', '.join(map(shown, arguments))}) == {shown(expected)}"

        def one(name: str = name, arguments: list[Any] = arguments, expected: Any = expected) -> None:
            found = listed(function(program, names, name)(*arguments))
            if found is None and expected is not None and arguments:
                found = listed(arguments[0])  # of a function that changes what it is given
            if not (found == expected or [found] == expected):
                raise AssertionError

        attempt(one, what, program, report)


def function(program: Program, names: list[str], name: str) -> Any:
    """The program's function of this name, or the method of its class Solution, as LeetCode's are written."""
    if name not in names and "Solution" in names:
        return getattr(Kept(program, 0, "program").Solution(), name)
    return getattr(Kept(program, 0, "program"), name)


def listed(value: Any) -> Any:
    """A value as JSON would have it: tuples are lists."""
    return [listed(one) for one in value] if isinstance(value, list | tuple) else value


def try_source(program: Program, names: list[str], source: str, report: Report) -> None:
    """Tests in Python. What they name and neither they nor Python define is the program's; ``import solution`` gives it
    too. A statement with assertions is a test, and so is a function or method ``test_…``; where nothing is asserted at
    all, the tests are at fault."""
    linecache.cache["tests"] = (len(source), None, source.splitlines(keepends=True), "tests")
    try:
        tree = ast.parse(source, "tests")
        steps = [(one, compile(counting(one), "tests", "exec", dont_inherit=True)) for one in tree.body]
    except BaseException as error:
        report.write(fault=f"{type(error).__name__}: {error}"[:SAID])
        return
    scope: dict[str, Any] = {"__name__": "tests", ASSERTED: report.asserted}
    sys.modules["solution"] = Solution(Kept(program, 0, "program"), names, defined(tree))
    asked = wanted(tree)
    scope |= {name: getattr(sys.modules["solution"], name) for name in names if name in asked}
    scope |= {name: import_module(name) for name in modules(tree) if name not in scope}
    for step, code in steps:
        run = partial(exec, code, scope)
        text = linecache.getline("tests", step.lineno).strip()
        if tests_something(step):
            attempt(run, text, program, report)
        elif not prepared(run, text, program, report):
            return
    for name, one in found_in(scope):
        attempt(one, name, program, report)
    if not report.told["asserted"] and report.told["failed"] is None:
        report.write(fault="they assert nothing")


def prepared(run: Callable[[], Any], text: str, program: Program, report: Report) -> bool:
    """Whether a statement that tests nothing came to its end; a library that is not here is the tests' own fault."""
    try:
        run()
    except ModuleNotFoundError as error:
        report.write(fault=f"they need {error.name}, and the sandbox has Python's library alone")
    except Ended:
        raise
    except BaseException as error:
        fail(error, text, program, report)
    else:
        return True
    return False


def attempt(one: Callable[[], Any], what: str, program: Program, report: Report) -> None:
    """Try one test, and say how it went."""
    program.last = ""
    report.trying(what)
    try:
        one()
    except Ended:
        raise
    except BaseException as error:
        fail(error, asserted(error) or what, program, report)
        return
    if program.ended:  # whatever the test made of that
        raise Ended(program.ended)
    report.passed()


def fail(error: BaseException, what: str, program: Program, report: Report) -> None:
    said = " ".join(str(error).split())
    kind = "" if isinstance(error, AssertionError) else type(error).__name__
    why = getattr(error, "told", None) or ": ".join(part for part in (kind, said) if part)
    report.failed(what, why, program.last)


def asserted(error: BaseException) -> str:
    """The innermost line of the tests that the error comes from; empty if there is none."""
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == "tests"]
    return linecache.getline("tests", lines[-1]).strip() if lines and lines[-1] else ""
