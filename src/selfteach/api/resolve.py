"""From names, files and objects to a resolved run: what the command line and the Python API share."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfteach.api.configfile import given_from_python, is_of_a_run
from selfteach.api.fit import AUTO
from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.importing import in_one_line, is_reference, load_object
from selfteach.recipes import METHODS, Method, NetworkRecipe, Recipe, knobs, with_knobs
from selfteach.recipes.knobs import refuse_renamed
from selfteach.settings import is_settings
from selfteach.studies.laptop import laptop_of, preset_named
from selfteach.task.arena import WORLDS
from selfteach.task.options import TaskOptions, yielding
from selfteach.task.rows import make_task
from selfteach.training.config import FORMAT, Bookkeeping, Evaluation, Loading, TrainConfig, Vllm
from selfteach.training.network_config import NetworkConfig, Tracking
from selfteach.training.trainer import Settings
from selfteach.training.whereabouts import same_thing

GIVEN = "given"
"""The preset of a recipe that was given as an object."""
NOWHERE = Path("")
BUNDLES: Mapping[str, type] = {
    "loading": Loading,
    "task_options": TaskOptions,
    "evaluation": Evaluation,
    "bookkeeping": Bookkeeping,
    "vllm": Vllm,
}
"""The parts of a run's settings beside the recipe's."""
NETWORK_BUNDLES: Mapping[str, type] = {"settings": Settings, "tracking": Tracking}
"""The same of a run without tokens."""
WHERE_USED = ("vllm",)
"""Those of them that a run's record has only where they are not the defaults."""
TOP = ("recipe", "preset", "task", "reward", "seed", "out")
"""What a settings file names beside the knobs."""
WORDS = ("config", "resume", "dry_run", "model", "tokenizer", "progress")
"""What else a command line or ``selfteach.train`` names."""

S = TypeVar("S")
C = TypeVar("C", TrainConfig, NetworkConfig)
RecipeLike = str | type[Recipe] | Recipe
MethodLike = str | type[Method] | Method


def kind_of(given: MethodLike) -> tuple[str, str | None, type[Method] | Method]:
    """(name, preset or None, class or object) of NAME, NAME:PRESET, FILE:NAME, FILE:NAME:PRESET, a class or an object.

    UserError where there is none, or where it is no recipe.
    """
    preset: str | None = None
    if isinstance(given, str):
        head, _, tail = given.rpartition(":")
        name, preset = (
            (head, tail) if head in METHODS or (":" in head and is_reference(head)) else (given, None)
        )
        found = load_object(name) if is_reference(name) else METHODS.get(name)
        if found is None:
            raise UserError(f"no recipe is called {name!r}{nearest(name, METHODS)}")
    else:
        found = given
        kind = given if isinstance(given, type) else type(given)
        name = next((n for n, k in METHODS.items() if k is kind), f"{kind.__module__}:{kind.__qualname__}")
    if not (isinstance(found, Method) or (isinstance(found, type) and issubclass(found, Method))):
        raise UserError(
            f"{name} is no recipe but {type(found).__name__}: give a subclass of selfteach.Recipe or "
            "selfteach.NetworkRecipe"
        )
    kind = found if isinstance(found, type) else type(found)
    require(
        is_settings(kind),
        f"recipe {kind.__name__} is not checked: put @settings of selfteach.recipes.kit above its class",
    )
    lacking = "loss: define loss(self, network, outputs, step)"
    lacking = lacking if issubclass(kind, NetworkRecipe) else "terms: define terms(self, stats)"
    require(not inspect.isabstract(kind), f"recipe {kind.__name__} has no {lacking}")
    require(bool(kind.presets), f"recipe {kind.__name__} has no preset: it needs one at least, as 'paper'")
    refuse_taken(found if isinstance(found, Method) else kind())
    return name, preset, found


def text_kind_of(given: MethodLike) -> tuple[str, str | None, type[Recipe] | Recipe]:
    """The same of a recipe that trains a writer of tokens. UserError for any other."""
    name, preset, found = kind_of(given)
    if isinstance(found, type) and issubclass(found, Recipe):
        return name, preset, found
    if isinstance(found, Recipe):
        return name, preset, found
    raise UserError(
        f"recipe {name} trains no causal language model: selfteach train, doctor and study take it"
    )


def is_network(given: MethodLike | None, table: Mapping[str, Any]) -> bool:
    """Whether a run without tokens is asked for: by its recipe, or by a settings file. UserError as in ``kind_of``."""
    if given is None and "recipe" in given_from_python(table):
        return False  # nothing says which: it must be given again, of whatever kind it is
    own = table.get("recipe")
    named = own.get("name") if isinstance(own, Mapping) else own
    given = given if given is not None else named
    if not isinstance(given, str | type | Method) or (isinstance(given, str) and not given):
        return False
    found = kind_of(given)[2]
    return issubclass(found if isinstance(found, type) else type(found), NetworkRecipe)


def refuse_taken(recipe: Method) -> None:
    """UserError where a knob has the name of another one, or of a setting of every run."""
    names: list[str] = []
    for part in fields(recipe):
        value = getattr(recipe, part.name)
        names += [one.name for one in fields(value)] if is_dataclass(value) else [part.name]
    bundles = NETWORK_BUNDLES if isinstance(recipe, NetworkRecipe) else BUNDLES
    taken = {*TOP, *WORDS, *(one.name for bundle in bundles.values() for one in fields(bundle))}
    for name in names:
        require(
            names.count(name) == 1 and name not in taken,
            f"recipe {type(recipe).__name__}: knob {name!r} is taken by another setting: give it another name",
        )


def draft(
    recipe: MethodLike | None,
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
    table = with_recipe_named(table)
    recipe = recipe if recipe is not None else table.get("recipe")
    if recipe is None:
        raise UserError(f"which recipe? known: {', '.join(METHODS)}, or FILE:NAME of your own")
    name, of_name, found = text_kind_of(recipe)
    require(preset is None or of_name in (None, preset), f"two presets are named: {of_name} and {preset}")
    preset = preset or of_name or table.get("preset")
    require(preset is None or isinstance(preset, str), f"preset must be a name, got {preset!r}")
    task = task if task is not None else table.get("task")
    kind = found if isinstance(found, type) else type(found)
    if task is None or (isinstance(task, str) and not task):
        task = laptop_of(kind).world
    if isinstance(found, Recipe):
        require(preset is None, f"recipe {name} was given as an object: it has its settings, and no preset")
        preset, chosen = GIVEN, found
    else:
        arena = isinstance(task, str) and task in WORLDS
        auto = preset == AUTO or (preset is None and not arena)
        name_of, chosen = preset_named(found, None if preset == AUTO else preset, world=task if arena else "")
        preset = AUTO if auto else name_of
    reward = reward if reward is not None else table.get("reward")
    config = TrainConfig(chosen, name, preset, task, NOWHERE, reward=reward, seed=table.get("seed", 0))
    return with_values(config, flat(table))


def with_recipe_named(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A file of one's own that has its recipe as a table, as a run's record has: name and preset go to the top."""
    own = table.get("recipe")
    if not isinstance(own, Mapping):
        return table
    names = {top: own[name] for top, name in (("recipe", "name"), ("preset", "preset")) if name in own}
    rest = {name: value for name, value in own.items() if name not in ("name", "preset")}
    return {**{k: v for k, v in table.items() if k != "recipe"}, **names, "knobs of the recipe": rest}


def of_a_run(
    table: Mapping[str, Any], recipe: MethodLike | None, preset: str | None, task: Any, reward: Any
) -> TrainConfig:
    """The settings that a run's config.toml holds. UserError where it lacks some, or holds others."""
    saved, run = table["recipe"], table.get("run")
    require(isinstance(run, Mapping), "the settings lack the table run: a run's record is complete")
    assert isinstance(run, Mapping)
    require({"task", "seed"} <= run.keys(), "the settings lack run.task or run.seed")
    again = {"recipe": recipe, "task": task, "reward": reward}
    for what in given_from_python(table):
        require(
            what == "model" or again.get(what) is not None,
            f"the run's {what} was given from Python: pass it again, train(…, {what}=…, out=…, resume=True)",
        )
    name, found = require_same(table, recipe, preset)
    chosen = complete(found, saved)
    assert isinstance(chosen, Recipe)
    bundles = {
        part: bundle()
        if part in WHERE_USED and part not in table
        else read(bundle(), table.get(part, {}), part)
        for part, bundle in BUNDLES.items()
    }
    return TrainConfig(
        chosen, name, saved["preset"], task if task is not None else run["task"], NOWHERE,
        reward=reward if reward is not None else run.get("reward"), seed=run["seed"], **bundles,
    )  # fmt: skip


def require_same(
    table: Mapping[str, Any], recipe: MethodLike | None, preset: str | None
) -> tuple[str, type[Method] | Method]:
    """(name, class or object) of the recipe of a run's record. UserError where another one or another preset is asked
    for, and for the record of another version."""
    saved, known = table["recipe"], table["about"].get("format", 1)
    require(
        known == FORMAT,
        f"the settings are of an earlier selfteach (config format {known}, now {FORMAT}); start anew",
    )
    require("name" in saved and "preset" in saved, "the settings are of a learner without a recipe")
    require(
        all(isinstance(saved[name], str) for name in ("name", "preset")),
        "the settings name no recipe and preset",
    )
    name, of_name, found = kind_of(recipe if recipe is not None else saved["name"])
    preset = preset or of_name
    require(
        name == saved["name"] or same_thing(saved["name"], name, Path.cwd()),
        f"the settings are of recipe {saved['name']}, not {name}",
    )
    require(
        preset in (None, saved["preset"]),
        f"the settings are of preset {saved['preset']}: leave --preset out, or leave the file out",
    )
    return name, found


def complete(found: type[Method] | Method, saved: Mapping[str, Any]) -> Method:
    """The recipe with the knobs of a run's record. UserError where one that was given as an object has others."""
    kind = found if isinstance(found, type) else type(found)
    values = {k: v for k, v in saved.items() if k not in ("name", "preset")}
    chosen = read(kind(), values, "recipe")
    if isinstance(found, Method) and found != chosen:
        mine, theirs = knobs(found), knobs(chosen)
        other = next(name for name in mine if mine[name] != theirs[name])
        raise UserError(f"the settings have {other} {theirs[other]!r}, the recipe given {mine[other]!r}")
    return chosen


def read(default: S, table: Mapping[str, Any], place: str) -> S:
    """Settings as a run's table has them. UserError for a name that is none of theirs, or for one that is missing."""
    require(isinstance(table, Mapping), f"the settings have {place} {in_one_line(table)}: it must be a table")
    values: dict[str, Any] = {}
    for one in fields(default):  # type: ignore[arg-type]
        inner = getattr(default, one.name)
        require(one.name in table, f"the settings lack {place}.{one.name}: a run's record is complete")
        value = table[one.name]
        nested = is_dataclass(inner) and isinstance(value, Mapping)
        values[one.name] = read(inner, value, f"{place}.{one.name}") if nested else value
    for name in table:
        require(name in values, f"the settings have {place}.{name}, which is unknown{nearest(name, values)}")
    return type(default)(**values)


def flat(table: Mapping[str, Any], top: bool = True) -> dict[str, Any]:
    """The knobs of a settings file by flat name, whether it nests them or not; dashes count as underscores.

    UserError for a knob that is given twice, or for what stands at the top of a file within a table.
    """
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        inner = flat(value, top=False) if isinstance(value, Mapping) else {name: value}
        if top and name in TOP and not isinstance(value, Mapping):
            continue
        for knob, given in inner.items():
            require(knob not in TOP, f"{knob} stands within a table: write it at the top of the file")
            require(knob not in found, f"{knob} is given twice")
            found[knob] = given
    return found


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The same run with knobs set by flat name, the recipe's and all others. UserError for an unknown one."""
    left = dict(values)
    changed: dict[str, Any] = {}
    for part in BUNDLES:
        bundle = getattr(config, part)
        own = {one.name: left.pop(one.name) for one in fields(bundle) if one.name in left}
        if own:
            changed[part] = replace(yielding(bundle, own) if part == "task_options" else bundle, **own)
    known = knobs(config.recipe)
    for name in left:
        if name not in known:
            others = [one.name for part in BUNDLES for one in fields(getattr(config, part))]
            refuse_renamed(name)
            raise UserError(
                f"recipe {config.recipe_name} has no knob {name!r}{nearest(name, [*known, *others])}"
            )
    return replace(config, recipe=with_knobs(config.recipe, left), **changed)


def placed(config: C, out: Path | str | None) -> C:
    """The run with its folder: ``out``, or runs/RECIPE-TASK-TIME."""
    require(out is None or isinstance(out, str | Path), f"out must be a folder's path, got {out!r}")
    if out is None:
        named: list[str] = [safe(one) for one in (config.recipe_name, config.task_name) if one]
        name = "-".join([*named, time.strftime("%Y%m%d-%H%M%S")])
        out = Path("runs") / name
    return replace(config, out=Path(out))


def require_model(config: TrainConfig) -> None:
    """Refuse a task without a model of its own; a task that does not exist is refused as such first."""
    model = config.loading.model
    if model or config.network is not None:
        named_world = model in WORLDS and not os.path.exists(model)
        require(
            not named_world, f"{model!r} is a task, not a model: task={model!r}, or model 'arena:{model}'"
        )
        return
    if not (isinstance(config.task, str) and config.task in WORLDS):
        make_task(config.task, reward=config.reward, seed=config.seed, options=config.task_options)
        raise UserError(
            f"--model is missing: task {config.task_name} has no model of its own (give a folder or a hub id)"
        )


def in_memory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[str, PreTrainedTokenizerBase]:
    """(what a model in memory is called, its tokenizer). UserError without a tokenizer."""
    if tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: tokenizer=…")
    return model.name_or_path or type(model).__name__, tokenizer


def safe(name: str) -> str:
    """A name as a folder's: letters, digits, - and _ alone."""
    stem = name.rpartition("/")[2] if is_reference(name) else name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")[:40]
