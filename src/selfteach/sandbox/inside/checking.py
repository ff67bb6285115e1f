"""The tests' side: run them against a program in another process, which sees the arguments of calls and nothing else.

What comes back is decoded into plain values here, so that no object of the program compares itself: equality is
Python's own. Tests are Python (assertions and calls, one by one, and functions ``test_…``), or calls with the values
that they should give.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from . import values
from .failing import SAID

LONGEST = 16 << 20
"""Characters of one answer."""
SHOWN = 200


class Ended(Exception):
    """The program has ended, or says what is no answer."""


class Broken(Exception):
    """The program could not be loaded."""


class Program:
    """The program behind two pipes."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(0), encoding="utf-8")
        self.questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self.last = ""
        """The call that was asked last, and what it gave, in words."""

    def begun(self) -> list[str]:
        """The names that it defines. Broken where it could not be loaded."""
        told = self.read()
        if isinstance(told.get("broken"), dict):
            raise Broken(in_words(told["broken"]))
        names = told.get("names")
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise Ended("it says what is no answer")
        return names

    def ask(self, **question: Any) -> Any:
        try:
            self.questions.write(json.dumps(question) + "\n")
            self.questions.flush()
        except BrokenPipeError:
            raise Ended("it has ended") from None
        told = self.read()
        if isinstance(told.get("raised"), dict):
            raise error_of(told["raised"])
        if told.get("over") is True and "next" in question:  # of a call it would end the tests' own loops
            raise StopIteration
        if "value" not in told:
            raise Ended("it says what is no answer")
        try:
            return values.decoded(told["value"], lambda number, kind: Kept(self, number, kind))
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise Ended(f"its answer cannot be read: {error}") from None

    def read(self) -> dict[str, Any]:
        try:
            line = self.answers.readline(LONGEST)
            told = json.loads(line) if line else None
        except (ValueError, RecursionError):
            raise Ended("it says what is no answer") from None
        if told is None:
            raise Ended("it has ended")
        if not isinstance(told, dict):
            raise Ended("it says what is no answer")
        return told


class Kept:
    """What stays in the program's process: a function to call, an object whose attributes may be read. It equals
    itself alone."""

    def __init__(self, program: Program, number: int, kind: str) -> None:
        self.__dict__.update(_program=program, _number=number, _kind=kind, _name=kind)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._program.ask(of=self._number, get=name)
        if isinstance(found, Kept):
            found.__dict__["_name"] = name
        return found

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        told = [values.encoded(one, number_of) for one in (list(arguments), dict(named))]
        said = [shown(one) for one in arguments] + [f"{key}={shown(one)}" for key, one in named.items()]
        self._program.last = f"{self._name}({', '.join(said)})"
        value = self._program.ask(of=self._number, arguments=told[0], named=told[1])
        self._program.last += f" gave {shown(value)}"
        return value

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._program.ask(of=self._number, next=True)

    def __repr__(self) -> str:
        return f"<{self._kind}>"


def number_of(value: object) -> int:
    if isinstance(value, Kept):
        return int(value._number)
    raise TypeError(f"tests cannot hand a {type(value).__name__} to a program")


def error_of(told: dict[str, Any]) -> BaseException:
    """What the program raised, as Python's own error of that name where there is one."""
    named = getattr(builtins, str(told.get("kind")), None)
    known = isinstance(named, type) and issubclass(named, Exception) and named is not StopIteration
    kind: Callable[[str], BaseException] = named if known and callable(named) else RuntimeError
    try:
        error = kind(str(told.get("message")))
    except Exception:  # one that wants other arguments
        error = RuntimeError(str(told.get("message")))
    error.__dict__["told"] = in_words(told)
    return error


def in_words(told: dict[str, Any]) -> str:
    kind, message, where = (str(told.get(name, ""))[:SAID] for name in ("kind", "message", "where"))
    return f"{kind}{': ' if message else ''}{message}{f' ({where})' if where else ''}"


def shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return "…"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# --- what is tried --------------------------------------------------------------------------------------------------


class Report:
    """How far the tests have come, written over the standard error after each, so that it is known when time is up."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {"passed": 0, "of": 0, "failed": None, "fault": None, "done": False}

    def write(self, **more: Any) -> None:
        self.told.update(more)
        text = json.dumps(self.told).encode()
        os.ftruncate(2, 0)
        os.pwrite(2, text, 0)

    def trying(self, what: str) -> None:
        self.write(at=what[:SHOWN], of=self.told["of"] + 1)

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
    too."""
    linecache.cache["tests"] = (len(source), None, source.splitlines(keepends=True), "tests")
    try:
        tree = ast.parse(source)
        steps = [(one, compile(ast.Module([one], []), "tests", "exec")) for one in tree.body]
    except BaseException as error:
        report.write(fault=f"{type(error).__name__}: {error}"[:SAID])
        return
    whole = Kept(program, 0, "program")
    scope: dict[str, Any] = {"__name__": "tests"}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    scope |= {name: getattr(whole, name) for name in names if name in used and not hasattr(builtins, name)}
    sys.modules["solution"] = Solution(whole, names)
    for step, code in steps:
        text = linecache.getline("tests", step.lineno).strip()
        run = partial(exec, code, scope)
        if isinstance(step, ast.Assert | ast.Expr):
            attempt(run, text, program, report)
            continue
        try:
            run()
        except Ended:
            raise
        except BaseException as error:
            fail(error, text, program, report)
            return
    for name, one in list(scope.items()):
        if name.startswith("test_") and callable(one) and not isinstance(one, Kept):
            attempt(one, name, program, report)


class Solution(ModuleType):
    """The program as a module that tests import."""

    def __init__(self, whole: Kept, names: list[str]) -> None:
        super().__init__("solution")
        self.__dict__["__all__"], self.__dict__["_whole"] = names, whole

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["__all__"]:
            raise AttributeError(f"the program defines no {name}")
        return getattr(self.__dict__["_whole"], name)


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
