"""Whose code a run depends on: files of the package that its method and its world use and others may not.

From a method's file one follows the names that it uses, through the kit to where they are defined, and from there on.
What nearly all methods go through is ``SHARED``: it is not followed, and ``fingerprint.EPOCH`` stands for it.
"""

from __future__ import annotations

import ast
import inspect
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from selfteach.recipes import Method, NetworkRecipe, Recipe
from selfteach.task.arena import WORLDS

KITS = ("selfteach.recipes.kit", "selfteach.recipes.network_kit")
FOLLOWED = tuple(f"selfteach.{one}." for one in ("recipes", "roles", "control", "objective", "task"))
LEARNERS = re.compile(r"selfteach\.training\.[^.]+\.[^.]+")
"""A learner, and what stands beside it in the folder of its domain."""
SHARED = frozenset(
    f"selfteach.{folder}.{name}"
    for folder, names in {
        "recipes": "kit network_kit base method network parts tools knobs",
        "roles": "role view weights",
        "objective": "advantage aggregate axes batch columns divergence divisor entrywise gate minibatch positions "
        "record sampled statistics sums support target terms",
        "task": "arrays example trajectory verdict",
    }.items()
    for name in names.split()
)
"""Modules that nearly all methods use: a change of theirs that makes runs learn otherwise raises ``EPOCH``, or where no
text is trained ``NETWORK_EPOCH``."""


def source_of(file: Path) -> str:
    """A file's text, in the encoding that it names."""
    with tokenize.open(file) as stream:
        return stream.read()


def network_code_files(recipe: NetworkRecipe, learner: type) -> list[Path]:
    """The files of a method without tokens, of its learner, and of what these use: not other learners of the domain."""
    own = {file for kind in type(recipe).__mro__ if (file := file_of_class(kind))}
    return followed({*own, Path(inspect.getfile(learner))})


def code_files(recipe: Recipe, worlds: Iterable[str]) -> list[Path]:
    """The files of the method, of its stages and of what these use, and of the arena's ``worlds``."""
    kinds = [one for stage in (recipe, *recipe.stages.values()) for one in type(stage).__mro__]
    own = {file for kind in kinds if (file := file_of_class(kind))}
    own |= {file for world in worlds for name in modules_of_world(world) if (file := file_of(name))}
    return followed(own)


def file_of_class(kind: type) -> Path | None:
    """Where a recipe's class is written; None for what all recipes are, and for a class that no file holds."""
    if not issubclass(kind, Method) or kind.__module__ in SHARED:
        return None
    try:
        return Path(inspect.getfile(kind))
    except (TypeError, OSError):  # written in a notebook: ``inputs.of_object`` has its code
        return None


def modules_of_world(name: str) -> set[str]:
    """The modules of the functions and the class that a world is made of."""
    world = WORLDS[name]
    parts = [one for one in vars(world).values() if inspect.isroutine(one)]
    names = {str(one.__module__) for one in (*parts, *type(world).__mro__)}
    return {name for name in names if name.startswith(FOLLOWED)}


def followed(files: Iterable[Path]) -> list[Path]:
    """The files, and those of all modules that they use and that are not shared; in order of their names."""
    found: set[Path] = set()
    left = list(files)
    while left:
        if (file := left.pop()) not in found:
            found.add(file)
            left += used_by(file)
    return sorted(found)


@cache
def used_by(file: Path) -> tuple[Path, ...]:
    """The files of the modules whose names a file uses."""
    used = {name for name in modules_used(file) if name.startswith(FOLLOWED) or LEARNERS.fullmatch(name)}
    names = used - SHARED
    return tuple(sorted(one for name in names if (one := file_of(name))))


def modules_used(file: Path) -> Iterator[str]:
    tree = ast.parse(source_of(file))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        if isinstance(node, ast.ImportFrom) and node.module in KITS:
            named = {one.name for one in node.names}
            wanted = used if "*" in named else named
            yield from (module for name, module in names_of(node.module).items() if name in wanted)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names)  # it may be a module itself


@cache
def names_of(kit: str) -> dict[str, str]:
    """Name of a kit → the module that defines it, or that it is."""
    file = file_of(kit)
    assert file is not None
    tree = ast.parse(source_of(file))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    named = {one.asname or one.name: (node.module, one.name) for node in imports for one in node.names}
    return {
        name: f"{module}.{own}" if file_of(f"{module}.{own}") else str(module)
        for name, (module, own) in named.items()
    }


@cache
def file_of(module: str) -> Path | None:
    """A module's file; None for a package, and for what is no module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a name within a module
        return None
    packaged = spec is None or spec.submodule_search_locations is not None or not spec.origin
    return None if packaged or spec is None or spec.origin is None else Path(spec.origin)
