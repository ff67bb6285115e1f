"""Settings from a file: a run's config.toml, or TOML, YAML or JSON written by hand."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selfteach.errors import UserError
from selfteach.outside import read_parsed
from selfteach.task.arena import WORLDS
from selfteach.training.inputs import file_of
from selfteach.training.whereabouts import base_of

PATHS: Mapping[str, Sequence[str]] = {
    "run": ("task", "reward"),
    "recipe": ("name",),
    "loading": ("model", "chat_template"),
    "task_options": ("held_out_file",),
    "evaluation": ("eval_also",),
    "bookkeeping": ("token_classes",),
}
"""Settings of a run's record that may name a file."""
PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".json": json.loads,
}  # fmt: skip


def read_settings(path: Path | str) -> dict[str, Any]:
    """The table that a settings file holds; of a run's folder its config.toml.

    UserError: it is missing, of another form, not valid, or no table.
    """
    path = Path(path)
    path = path / "config.toml" if os.path.isdir(path) else path
    if path.suffix not in PARSERS:
        raise UserError(f"settings file {path}: its name must end in {', '.join(PARSERS)}")
    table = read_parsed(PARSERS[path.suffix], path.suffix[1:], path, f"settings file {path}")
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise UserError(f"settings file {path} holds no table of names and values")
    return from_here(table, path.parent) if is_of_a_run(table) else table


def from_here(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A run's record with its relative paths as they are meant: from the folder in which the run was started."""
    base = base_of(record, folder)
    if base == Path.cwd().resolve():
        return record

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        if not isinstance(value, str) or not value or value in WORLDS or Path(value).is_absolute():
            return value
        return str(base / value) if (base / file_of(value)).exists() else value

    found = {name: dict(part) if isinstance(part, dict) else part for name, part in record.items()}
    for name, knobs in PATHS.items():
        part = found.get(name, {})
        part |= {knob: moved(part[knob]) for knob in knobs if knob in part}
    recipe = found["recipe"]
    for knob, value in recipe.items():  # another model that teaches
        if isinstance(value, str) and value and (base / value / "config.json").is_file():
            recipe[knob] = moved(value)
    return found


def given_from_python(table: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a run was given as an object, by its record: which of recipe, task, reward and model."""
    run = table.get("run")
    given = run.get("given") if isinstance(run, Mapping) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def is_of_a_run(table: Mapping[str, Any]) -> bool:
    """Whether it is a run's own record, which is complete."""
    return isinstance(table.get("about"), Mapping) and isinstance(table.get("recipe"), Mapping)
