"""The methods, one file each: a class that says its ``name`` is one, by that name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, with_knobs
from selfteach.recipes.method import Method
from selfteach.recipes.network import NetworkRecipe

M = TypeVar("M", bound=Method)


def _methods() -> Iterator[tuple[str, type[Method]]]:
    """(name, class) of every method that a file of this folder makes and names, by file."""
    for module in iter_modules(__path__):
        for kind in vars(import_module(f"{__name__}.{module.name}")).values():
            here = isinstance(kind, type) and kind.__module__ == f"{__name__}.{module.name}"
            if here and issubclass(kind, Method) and "name" in vars(kind):
                yield kind.name, kind


METHODS: dict[str, type[Method]] = {}
"""All of them by name."""
for _name, _kind in _methods():
    if _name in METHODS:
        raise ImportError(
            f"{_kind.__module__} and {METHODS[_name].__module__} both have a method called {_name!r}"
        )
    if _name:
        METHODS[_name] = _kind
RECIPES: dict[str, type[Recipe]] = {name: kind for name, kind in METHODS.items() if issubclass(kind, Recipe)}
"""Those that train a writer of tokens."""
NETWORK_RECIPES: dict[str, type[NetworkRecipe]] = {
    name: kind for name, kind in METHODS.items() if issubclass(kind, NetworkRecipe)
}
"""Those without tokens."""


def preset_of(kind: type[M], preset: str | None = None) -> M:
    """A recipe at one of its own presets (None: its first, the paper's). UserError naming the nearest if unknown."""
    presets = kind.presets
    chosen = next(iter(presets)) if preset is None else preset
    if chosen not in presets:
        raise UserError(f"recipe {kind.__name__} has no preset {chosen!r}{nearest(chosen, presets)}")
    return with_knobs(kind(), presets[chosen])


def recipe_named(name: str, preset: str | None = None) -> Recipe:
    """The recipe of text of this name at a preset of its own. UserError with the nearest names if unknown."""
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}{nearest(name, RECIPES)}")
    return preset_of(RECIPES[name], preset)


def network_recipe_named(name: str, preset: str | None = None) -> NetworkRecipe:
    """The same of a recipe without tokens."""
    if name not in NETWORK_RECIPES:
        raise UserError(f"no recipe without tokens is called {name!r}{nearest(name, NETWORK_RECIPES)}")
    return preset_of(NETWORK_RECIPES[name], preset)


__all__ = [
    "METHODS",
    "NETWORK_RECIPES",
    "RECIPES",
    "Method",
    "NetworkRecipe",
    "Recipe",
    "knobs",
    "network_recipe_named",
    "preset_of",
    "recipe_named",
    "with_knobs",
]
