"""The tests' side: run them against a program in another process, which sees the arguments of calls and nothing else.

What comes back is decoded into plain values here, so that no object of the program compares itself: equality is
Python's own. Tests are Python (assertions and calls, one by one, and functions ``test_…``), or calls with the values
that they should give.
"""

from __future__ import annotations

import ast
import builtins
import copy
import io
import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, ModuleType
from typing import Any

from . import values
from .failing import SAID

LONGEST = 16 << 20
"""Characters of one answer."""
SHOWN = 200
OUTERMOST = {"object", "BaseException", "StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}
"""Classes of errors that would end the tests rather than one of them."""


class Ended(BaseException):
    """The program has ended, or says what is no answer: no error that tests may catch."""


class Broken(Exception):
    """The program could not be loaded."""


class Program:
    """The program behind two pipes."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(0), encoding="utf-8")
        self.questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self.objects: dict[int, Kept] = {}
        self.ended = ""
        """Why it answers no more; empty while it does."""
        self.last = ""
        """The call that was asked last, and what it gave, in words."""

    def begun(self) -> list[str]:
        """The names that it defines. Broken where it could not be loaded."""
        told = self.read()
        if isinstance(told.get("broken"), dict):
            raise Broken(in_words(told["broken"]))
        names = told.get("names")
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise self.over("it says what is no answer")
        return names

    def ask(self, of: int, do: str, name: str = "", arguments: Sequence[Any] = (), **named: Any) -> Any:
        """What the program gives to a question; arguments that it has changed are changed here too."""
        told = self.exchanged({
            "of": of, "do": do, "name": name, "arguments": values.encoded(list(arguments), number_of),
            "named": values.encoded(named, number_of),
        })  # fmt: skip
        if isinstance(told.get("raised"), dict):
            raise error_of(told["raised"])
        if told.get("over") is True and do == "next":  # of a call it would end the tests' own loops
            raise StopIteration
        if isinstance(told.get("error"), list):
            return error_class([str(one) for one in told["error"]])
        if "value" not in told:
            raise self.over("it says what is no answer")
        try:
            value = values.decoded(told["value"], self.kept_as)
            changed = [values.decoded(one, self.kept_as) for one in told.get("changed", ())]
        except (ValueError, TypeError, RecursionError, OverflowError, ArithmeticError) as error:
            raise self.over(f"its answer cannot be read: {error}") from None
        for one, now in zip(arguments, changed, strict=False):
            change(one, now)
        return value

    def exchanged(self, question: dict[str, Any]) -> dict[str, Any]:
        if self.ended:
            raise Ended(self.ended)
        try:
            self.questions.write(json.dumps(question) + "\n")
            self.questions.flush()
        except BrokenPipeError:
            raise self.over("it has ended") from None
        return self.read()

    def over(self, why: str) -> Ended:
        """From here on it answers nothing, whatever tests make of that."""
        self.ended = why
        return Ended(why)

    def kept_as(self, number: int, kind: str) -> Kept:
        """The same object here for the same one there."""
        return self.objects.setdefault(number, Kept(self, number, kind))

    def read(self) -> dict[str, Any]:
        try:
            line = self.answers.readline(LONGEST)
            told = json.loads(line) if line else None
        except (ValueError, RecursionError):
            raise self.over("it says what is no answer") from None
        if told is None:
            raise self.over("it has ended")
        if not isinstance(told, dict):
            raise self.over("it says what is no answer")
        return told


class Kept:
    """What stays in the program's process: a function to call, an object whose attributes may be read and set.

    It equals itself alone, unless the tests made it of a class that they name as one (``Stack()``): then operators are
    the class's. What a function gives (``add(1, 2)``, be it a class for the program) never is.
    """

    def __init__(self, program: Program, number: int, kind: str) -> None:
        self.__dict__.update(_program=program, _number=number, _kind=kind, _name=kind, _made=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._program.ask(self._number, "get", name)
        if isinstance(found, Kept):
            found.__dict__["_name"] = name
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask(self._number, "set", name, [value])

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        said = [shown(one) for one in arguments] + [f"{key}={shown(one)}" for key, one in named.items()]
        self._program.last = f"{self._name}({', '.join(said)})"
        value = self._program.ask(self._number, "call", "", arguments, **named)
        self._program.last += f" gave {shown(value)}"
        if isinstance(value, Kept) and self._kind == "type" and self._name[:1].isupper():
            value.__dict__["_made"] = True
        return value

    def __iter__(self) -> Iterator[Any]:
        return self._program.ask(self._number, "iterate")  # type: ignore[no-any-return]

    def __next__(self) -> Any:
        return self._program.ask(self._number, "next")

    def __eq__(self, other: object) -> bool:
        return self is other or (
            self._made and bool(self._program.ask(self._number, "operate", "eq", [other]))
        )

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return str(self._program.ask(self._number, "text", "repr")) if self._made else f"<{self._kind}>"

    def __str__(self) -> str:
        return str(self._program.ask(self._number, "text", "str")) if self._made else f"<{self._kind}>"

    def __bool__(self) -> bool:
        return bool(self._program.ask(self._number, "operate", "truth")) if self._made else True

    def __len__(self) -> int:
        return int(operated("length")(self))


def operated(name: str) -> Callable[..., Any]:
    """An operator of objects that the tests made; TypeError of others, as of any object without it."""

    def operate(self: Kept, *others: Any) -> Any:
        if not self._made:
            raise TypeError(f"tests cannot use operators of a {self._kind} that the program gave")
        return self._program.ask(self._number, "operate", name, others)

    return operate


OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "lt", "le", "gt", "ge", "and_", "or_", "xor",
    "matmul", "getitem", "setitem", "delitem", "contains",
)  # fmt: skip
for _name in OPERATORS:
    setattr(Kept, f"__{_name.strip('_')}__", operated(_name))


def number_of(value: object) -> int:
    if isinstance(value, Kept):
        return int(value._number)
    raise TypeError(f"tests cannot hand a {type(value).__name__} to a program")


def change(one: Any, now: Any) -> None:
    """Have a list, dict or set hold what another of its kind holds."""
    if type(one) is not type(now):
        return
    if isinstance(one, list):
        one[:] = now
    elif isinstance(one, dict | set):
        one.clear()
        one.update(now)


_classes: dict[str, type[BaseException]] = {}


def error_class(names: Sequence[str]) -> type[BaseException]:
    """A class of errors by its name and those of the classes above it: Python's own, or one made here below the first
    of these that is."""
    own = names[0] if names else "RuntimeError"
    found = getattr(builtins, own, None)
    if isinstance(found, type) and issubclass(found, Exception) and found is not StopIteration:
        return found
    if own not in _classes:
        above = error_class(names[1:]) if len(names) > 1 else RuntimeError
        _classes[own] = type(own if own.isidentifier() else "Error", (above,), {})
    return _classes[own]


def error_of(told: dict[str, Any]) -> BaseException:
    """What the program raised, of Python's own class where there is one."""
    kinds = told.get("kinds")
    kind: Callable[[str], BaseException] = error_class(
        [str(one) for one in kinds if one not in OUTERMOST] if isinstance(kinds, list) else []
    )
    given = told.get("argument")
    try:
        error = kind(given if isinstance(given, str) else str(told.get("message")))
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
        tree = ast.parse(source)
        steps = [(one, compile(counting(one), "tests", "exec", dont_inherit=True)) for one in tree.body]
    except BaseException as error:
        report.write(fault=f"{type(error).__name__}: {error}"[:SAID])
        return
    scope: dict[str, Any] = {"__name__": "tests", ASSERTED: report.asserted}
    sys.modules["solution"] = Solution(Kept(program, 0, "program"), names, defined(tree))
    scope |= {name: getattr(sys.modules["solution"], name) for name in names if name in wanted(tree)}
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


ASSERTED = "__asserted__"


def counting(step: ast.stmt) -> ast.Module:
    """A statement that counts its assertions, as a module."""
    made = Counting().visit(copy.deepcopy(step))
    return ast.fix_missing_locations(ast.Module(made if isinstance(made, list) else [made], []))


class Counting(ast.NodeTransformer):
    """Has tests count the assertions that hold."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        counted = ast.Expr(ast.Call(ast.Name(ASSERTED, ast.Load()), [], []))
        return [node, ast.copy_location(counted, node)]


def tests_something(step: ast.stmt) -> bool:
    """Whether a statement asserts something itself, or calls what may."""
    if isinstance(step, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    called = isinstance(step, ast.Expr) and isinstance(step.value, ast.Call)
    return called or any(isinstance(one, ast.Assert) for one in ast.walk(step))


def found_in(scope: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Functions ``test_…``, methods ``test…`` of classes ``Test…`` and of unittest's."""
    for name, one in list(scope.items()):
        if isinstance(one, FunctionType) and name.startswith("test_"):
            yield name, partial(finished, one)
        elif isinstance(one, type) and one.__module__ == "tests":
            cased = any(above.__module__ == "unittest.case" for above in one.__mro__)
            if not (cased or name.startswith("Test")):
                continue
            for method in [each for each in dir(one) if each.startswith("test")]:
                run = (
                    partial(in_case, one, method, scope[ASSERTED])
                    if cased
                    else partial(of_class, one, method)
                )
                yield f"{name}.{method}", run


def of_class(kind: type, method: str) -> None:
    finished(getattr(kind(), method))


def finished(test: Callable[[], Any]) -> None:
    """Run a test to its end, a coroutine too. TypeError for a generator, which would not run."""
    given = test()
    if isinstance(given, CoroutineType):
        import_module("asyncio").run(given)  # a library that costs more than most tests
    elif isinstance(given, GeneratorType | AsyncGeneratorType):
        raise TypeError("a test is a generator, which does not run")


def in_case(case: Any, method: str, asserted: Callable[[], None]) -> None:
    """A test of unittest's, whose methods assert."""
    held: list[BaseException] = []
    result = import_module("unittest").TestResult()
    result.addFailure = result.addError = lambda test, error: held.append(error[1])
    case(method).run(result)
    if held:
        raise held[0]
    asserted()


def defined(tree: ast.AST) -> set[str]:
    """Names that the tests define or import themselves."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "solution":
            found |= {(one.asname or one.name).partition(".")[0] for one in node.names}
    return found


def wanted(tree: ast.AST) -> set[str]:
    """Names that are the program's to give: used, defined nowhere in the tests, neither Python's nor a library's."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {one for one in used - libraries(tree) if not hasattr(builtins, one)}


def libraries(tree: ast.AST) -> set[str]:
    """Names whose attributes are read and that libraries are called by, not called themselves."""
    read = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {one for one in read - called if one in sys.stdlib_module_names or one in ABBREVIATIONS}


ABBREVIATIONS = {
    "np",
    "numpy",
    "pd",
    "pandas",
    "torch",
    "tf",
    "sp",
    "scipy",
    "plt",
    "pytest",
    "sklearn",
    "sympy",
}


def modules(tree: ast.AST) -> set[str]:
    """Those of Python's libraries that the tests use without an import, as many data sets do."""
    return {one for one in libraries(tree) - defined(tree) if one in sys.stdlib_module_names}


class Solution(ModuleType):
    """The program as a module that tests import; ``*`` brings nothing that Python or the tests themselves define."""

    def __init__(self, whole: Kept, names: list[str], taken: set[str]) -> None:
        super().__init__("solution")
        free = [one for one in names if one not in taken and not hasattr(builtins, one)]
        self.__dict__.update(__all__=free, _whole=whole, _names=names)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["_names"]:
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
