"""Public signatures name the axes of their tensors, and the names are true."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

import selfteach

ROOT = Path(selfteach.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))


def test_names_are_true_of_every_recipe() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("axes.py"))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100


def nameless(hint: ast.expr) -> bool:
    """Whether an annotation speaks of a tensor that no ``Float[Tensor, "N T"]`` or its like encloses."""
    if isinstance(hint, ast.Subscript) and hasattr(jaxtyping, ast.unparse(hint.value)):
        return False
    if isinstance(hint, ast.Name | ast.Attribute):
        return ast.unparse(hint).endswith("Tensor")
    return any(nameless(part) for part in ast.iter_child_nodes(hint) if isinstance(part, ast.expr))


def hints(body: list[ast.stmt]) -> Iterator[ast.expr]:
    """The annotations of public functions, of public classes' fields and methods, and the aliases made for them."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from hints(node.body)
        elif isinstance(node, ast.FunctionDef) and (
            not node.name.startswith("_") or node.name in ("__init__", "__call__")
        ):
            given = node.args
            every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
            yield from (one.annotation for one in every if one is not None and one.annotation is not None)
            if node.returns is not None:
                yield node.returns
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_signatures_name_the_axes_of_tensors(path: Path) -> None:
    every = hints(ast.parse(path.read_text(encoding="utf-8")).body)
    assert not [f"line {one.lineno}: {ast.unparse(one)}" for one in every if nameless(one)]


@pytest.mark.parametrize(
    "program",
    [
        "def f(x: Tensor): ...",
        "def f(*, x: Tensor | None = None): ...",
        "def f() -> tuple[Float[Tensor, 'N'], torch.Tensor]: ...",
        "class A:\n    def f(self) -> dict[str, Tensor]: ...",
        "class A:\n    x: Mapping[str, Tensor]",
        "Gate = Callable[[Positions], Tensor]",
    ],
)
def test_a_tensor_without_names_is_found(program: str) -> None:
    assert any(nameless(hint) for hint in hints(ast.parse(program).body))


def test_a_tensor_with_names_passes() -> None:
    program = "def f(x: Float[Tensor, 'N'] | None) -> dict[str, Int[Tensor, 'N T']]: ..."
    assert not any(nameless(hint) for hint in hints(ast.parse(program).body))
