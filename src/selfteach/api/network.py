"""From names, files and objects to the resolved run of a recipe without tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from selfteach.api.configfile import is_of_a_run
from selfteach.api.resolve import (
    GIVEN,
    NETWORK_BUNDLES,
    NOWHERE,
    MethodLike,
    complete,
    flat,
    kind_of,
    read,
    require_same,
    with_recipe_named,
)
from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.recipes import NetworkRecipe, knobs, with_knobs
from selfteach.recipes.knobs import refuse_renamed
from selfteach.studies.laptop import laptop_preset
from selfteach.training.network_config import NetworkConfig

OF_TEXT = ("model", "task", "reward", "tokenizer")
"""What a run of text is told, and one without tokens is not."""


def network_draft(
    recipe: MethodLike | None, *, preset: str | None = None, table: Mapping[str, Any] | None = None
) -> NetworkConfig:
    """A run's settings before any knob is set: those of a settings file (``table``), or of a recipe's preset. UserError
    as ``resolve.draft`` has it."""
    table = table or {}
    if is_of_a_run(table):
        return of_a_network_run(table, recipe, preset)
    table = with_recipe_named(table)
    name, of_name, found = kind_of(recipe if recipe is not None else table["recipe"])
    require(preset is None or of_name in (None, preset), f"two presets are named: {of_name} and {preset}")
    preset = preset or of_name or table.get("preset")
    if isinstance(found, NetworkRecipe):
        require(preset is None, f"recipe {name} was given as an object: it has its settings, and no preset")
        preset, chosen = GIVEN, found
    else:
        assert isinstance(found, type)
        assert issubclass(found, NetworkRecipe)
        preset, chosen = laptop_preset(found, preset)
    config = NetworkConfig(chosen, name, preset, NOWHERE)
    values = flat(table)
    return with_network_values(config, {**values, **({"seed": table["seed"]} if "seed" in table else {})})


def of_a_network_run(
    table: Mapping[str, Any], recipe: MethodLike | None, preset: str | None
) -> NetworkConfig:
    """The settings that a run's config.toml holds. UserError where it lacks some, or holds others."""
    saved = table["recipe"]
    name, found = require_same(table, recipe, preset)
    chosen = complete(found, saved)
    assert isinstance(chosen, NetworkRecipe)
    bundles = {part: read(kind(), table.get(part, {}), part) for part, kind in NETWORK_BUNDLES.items()}
    return NetworkConfig(chosen, name, saved["preset"], NOWHERE, **bundles)


def with_network_values(config: NetworkConfig, values: Mapping[str, Any]) -> NetworkConfig:
    """The same run with knobs set by flat name, the recipe's and all others. UserError for an unknown one."""
    left = dict(values)
    changed: dict[str, Any] = {}
    for part in NETWORK_BUNDLES:
        bundle = getattr(config, part)
        own = {one.name: left.pop(one.name) for one in fields(bundle) if one.name in left}
        if own:
            changed[part] = replace(bundle, **own)
    known = knobs(config.recipe)
    for name in left:
        if name not in known:
            others = [one.name for part in NETWORK_BUNDLES for one in fields(getattr(config, part))]
            refuse_text(name, config.recipe_name)
            refuse_renamed(name)
            raise UserError(
                f"recipe {config.recipe_name} has no knob {name!r}{nearest(name, [*known, *others])}"
            )
    return replace(config, recipe=with_knobs(config.recipe, left), **changed)


def refuse_text(name: str, recipe: str) -> None:
    """UserError for what only a run of text is told."""
    require(
        name not in OF_TEXT,
        f"recipe {recipe} trains networks of its own, without text: it has no {name} (selfteach recipes {recipe} lists "
        "its knobs)",
    )
