"""Arrows point one way: a module imports only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import selfteach

ROOT = Path(selfteach.__file__).parent
FLOOR = {
    "sandbox": -1,
    "objective": 0,
    "task": 0,
    "policy": 1,
    "roles": 2,
    "control": 2,
    "recipes": 3,
    "training": 4,
    "report": 4,
}
FLOOR |= {"studies": 5, "probe": 5, "api": 6, "cli": 7}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] in FLOOR)


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if (
            parts[0] != "selfteach"
            or len(parts) == 1
            or parts[1]
            in (
                own,
                "checks",
                "errors",
                "settings",
                "importing",
                "outside",
                "hub",
                "words",
                "wording",
                "__version__",
            )
        ):
            continue
        assert parts[1] in FLOOR, name
        assert FLOOR[parts[1]] < FLOOR[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "objective").glob("*.py")), ids=lambda p: p.name)
def test_the_objective_imports_torch_and_names_of_axes_alone(path: Path) -> None:
    import sys

    outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "jaxtyping", "selfteach"}
