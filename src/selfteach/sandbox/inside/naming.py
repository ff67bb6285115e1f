"""Which names of tests are the program's to give: none that Python, a library or the tests themselves define."""

from __future__ import annotations

import ast
import builtins
import sys
from types import ModuleType
from typing import Any

from .remote import Kept


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
    "np", "numpy", "pd", "pandas", "torch", "tf", "sp", "scipy", "plt", "pytest", "sklearn", "sympy",
}  # fmt: skip


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
