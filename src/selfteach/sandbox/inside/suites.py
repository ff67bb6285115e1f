"""What of tests in Python is a test: statements with assertions, functions, methods; and how each is run."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from typing import Any

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
