"""The methods, one file each: a class that says its ``name`` is one, by that name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, with_knobs


def _methods() -> Iterator[tuple[str, type[Recipe]]]:
    """(name, class) of every recipe that a file of this folder makes and names, by file."""
    for module in iter_modules(__path__):
        for kind in vars(import_module(f"{__name__}.{module.name}")).values():
            here = isinstance(kind, type) and kind.__module__ == f"{__name__}.{module.name}"
            if here and issubclass(kind, Recipe) and "name" in vars(kind):
                yield kind.name, kind


RECIPES: dict[str, type[Recipe]] = {}
for _name, _kind in _methods():
    if _name in RECIPES:
        raise ImportError(
            f"{_kind.__module__} and {RECIPES[_name].__module__} both have a method called {_name!r}"
        )
    if _name:
        RECIPES[_name] = _kind


def preset_of(kind: type[Recipe], preset: str | None = None) -> Recipe:
    """A recipe at one of its own presets (None: its first, the paper's). UserError naming the nearest if unknown."""
    presets = kind.presets
    chosen = next(iter(presets)) if preset is None else preset
    if chosen not in presets:
        raise UserError(f"recipe {kind.__name__} has no preset {chosen!r}{nearest(chosen, presets)}")
    return with_knobs(kind(), presets[chosen])


def recipe_named(name: str, preset: str | None = None) -> Recipe:
    """The recipe of this name at a preset of its own. UserError with the nearest names if unknown."""
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}{nearest(name, RECIPES)}")
    return preset_of(RECIPES[name], preset)


__all__ = ["RECIPES", "Recipe", "knobs", "preset_of", "recipe_named", "with_knobs"]
