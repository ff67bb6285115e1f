"""From names, files and objects to a resolved run: what the command line and the Python API share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from selfteach.api.configfile import is_of_a_run
from selfteach.errors import UserError
from selfteach.importing import is_reference, load_object
from selfteach.recipes import RECIPES, Recipe, knobs, with_knobs
from selfteach.recipes.checks import nearest, require
from selfteach.recipes.knobs import refuse_renamed
from selfteach.settings import is_settings
from selfteach.studies.laptop import laptop_of, preset_named
from selfteach.task.arena import WORLDS
from selfteach.task.options import TaskOptions
from selfteach.task.rows import make_task
from selfteach.training.config import FORMAT, Bookkeeping, Evaluation, Loading, TrainConfig

GIVEN = "given"
"""The preset of a recipe that was given as an object."""
NOWHERE = Path("")
BUNDLES: Mapping[str, type] = {
    "loading": Loading,
    "task_options": TaskOptions,
    "evaluation": Evaluation,
    "bookkeeping": Bookkeeping,
}
"""The parts of a run's settings beside the recipe's."""
TOP = ("recipe", "preset", "task", "reward", "seed", "out")
"""What a settings file names beside the knobs."""

RecipeLike = str | type[Recipe] | Recipe


def kind_of(given: RecipeLike) -> tuple[str, str | None, type[Recipe] | Recipe]:
    """(name, preset or None, class or object) of NAME, NAME:PRESET, FILE:NAME, FILE:NAME:PRESET, a class or an object.

    UserError where there is none, or where it is no recipe.
    """
    preset: str | None = None
    if isinstance(given, str):
        head, _, tail = given.rpartition(":")
        name, preset = (
            (head, tail) if head in RECIPES or (":" in head and is_reference(head)) else (given, None)
        )
        found = load_object(name) if is_reference(name) else RECIPES.get(name)
        if found is None:
            raise UserError(f"no recipe is called {name!r}{nearest(name, RECIPES)}")
    else:
        found = given
        kind = given if isinstance(given, type) else type(given)
        name = next((n for n, k in RECIPES.items() if k is kind), f"{kind.__module__}:{kind.__qualname__}")
    if not (isinstance(found, Recipe) or (isinstance(found, type) and issubclass(found, Recipe))):
        raise UserError(
            f"{name} is no recipe but {type(found).__name__}: give a subclass of selfteach.Recipe"
        )
    kind = found if isinstance(found, type) else type(found)
    require(
        is_settings(kind),
        f"recipe {kind.__name__} is not checked: put @settings of selfteach.recipes.kit above its class",
    )
    return name, preset, found


def draft(
    recipe: RecipeLike | None,
    *,
    preset: str | None = None,
    task: Any = None,
    reward: Any = None,
    table: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """A run's settings before any knob is set: those of a settings file (``table``), or of a recipe's preset.

    Its folder is not chosen yet. UserError where no recipe is named, or the file is of another one.
    """
    table = table or {}
    if is_of_a_run(table):
        return of_a_run(table, recipe, preset, task, reward)
    recipe = recipe if recipe is not None else table.get("recipe")
    if recipe is None:
        raise UserError(f"which recipe? known: {', '.join(RECIPES)}, or FILE:NAME of your own")
    name, of_name, found = kind_of(recipe)
    preset = preset or of_name or table.get("preset")
    task = task if task is not None else table.get("task")
    kind = found if isinstance(found, type) else type(found)
    if task is None or (isinstance(task, str) and not task):
        task = laptop_of(kind).world
    if isinstance(found, Recipe):
        require(preset is None, f"recipe {name} was given as an object: it has its settings, and no preset")
        preset, chosen = GIVEN, found
    else:
        preset, chosen = preset_named(found, preset, arena=isinstance(task, str) and task in WORLDS)
    reward = reward if reward is not None else table.get("reward")
    config = TrainConfig(chosen, name, preset, task, NOWHERE, reward=reward, seed=int(table.get("seed", 0)))
    return with_values(config, flat(table))


def of_a_run(
    table: Mapping[str, Any], recipe: RecipeLike | None, preset: str | None, task: Any, reward: Any
) -> TrainConfig:
    """The settings that a run's config.toml holds. What is none is left out there."""
    saved, run = table.get("recipe", {}), table.get("run", {})
    known = table.get("about", {}).get("format", 1)
    require(known == FORMAT, f"the settings are of an earlier selfteach (format {known}, now {FORMAT})")
    require("terms" not in saved and "name" in saved, "the settings are of a learner without a recipe")
    if recipe is not None:
        name, of_name, found = kind_of(recipe)
        preset = preset or of_name
        require(name == saved["name"], f"the settings are of recipe {saved['name']}, not {name}")
    else:
        name, _, found = kind_of(saved["name"])
    require(
        preset in (None, saved["preset"]),
        f"the settings are of preset {saved['preset']}: leave --preset out, or leave the file out",
    )
    kind = found if isinstance(found, type) else type(found)
    values = {k: v for k, v in saved.items() if k not in ("name", "preset")}
    bundles = {part: read(bundle, table.get(part, {})) for part, bundle in BUNDLES.items()}
    return TrainConfig(
        read(kind, values), name, saved["preset"], task if task is not None else run["task"], NOWHERE,
        reward=reward if reward is not None else run.get("reward"), seed=run["seed"], **bundles,
    )  # fmt: skip


def read(kind: type, table: Mapping[str, Any]) -> Any:
    """Settings from a run's table: a value that is left out is None where it may be, else the default."""
    hints = get_type_hints(kind)
    default = kind()
    values: dict[str, Any] = {}
    for one in fields(kind):
        inner = getattr(default, one.name)
        if is_dataclass(inner):
            values[one.name] = read(type(inner), table.get(one.name, {}))
        elif one.name in table:
            values[one.name] = table[one.name]
        elif NoneType in get_args(hints[one.name]):
            values[one.name] = None
    return kind(**values)


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a settings file by flat name, whether it nests them or not; dashes count as underscores."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value)
        elif key not in TOP:
            found[key.replace("-", "_")] = value
    return found


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The same run with knobs set by flat name, the recipe's and all others. UserError for an unknown one."""
    left = dict(values)
    changed: dict[str, Any] = {}
    for part in BUNDLES:
        bundle = getattr(config, part)
        own = {one.name: left.pop(one.name) for one in fields(bundle) if one.name in left}
        if own:
            changed[part] = replace(bundle, **own)
    known = knobs(config.recipe)
    for name in left:
        if name not in known:
            others = [one.name for part in BUNDLES for one in fields(getattr(config, part))]
            refuse_renamed(name)
            raise UserError(
                f"recipe {config.recipe_name} has no knob {name!r}{nearest(name, [*known, *others])}"
            )
    return replace(config, recipe=with_knobs(config.recipe, left), **changed)


def placed(config: TrainConfig, out: Path | str | None) -> TrainConfig:
    """The run with its folder: ``out``, or runs/RECIPE-TASK-TIME."""
    if out is None:
        name = f"{safe(config.recipe_name)}-{safe(config.task_name)}-{time.strftime('%Y%m%d-%H%M%S')}"
        out = Path("runs") / name
    return replace(config, out=Path(out))


def require_model(config: TrainConfig) -> None:
    """Refuse a task without a model of its own; a task that does not exist is refused as such first."""
    if config.loading.model or config.network is not None:
        return
    if not (isinstance(config.task, str) and config.task in WORLDS):
        make_task(config.task, reward=config.reward, seed=config.seed, options=config.task_options)
        raise UserError(
            f"--model is missing: task {config.task_name} has no model of its own (give a folder or a hub id)"
        )


def safe(name: str) -> str:
    """A name as a folder's: letters, digits, - and _ alone."""
    stem = name.rpartition("/")[2] if is_reference(name) else name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")[:40]
