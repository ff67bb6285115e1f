"""Settings from a file: a run's config.toml, or TOML, YAML or JSON written by hand."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import read_parsed
from selfteach.training.config import FORMAT
from selfteach.training.runconfig import require_tables
from selfteach.training.whereabouts import from_here

PARSERS: Mapping[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load, ".json": json.loads,
}  # fmt: skip


def read_settings(path: Path | str) -> dict[str, Any]:
    """The table that a settings file holds; of a run's folder its config.toml.

    UserError: it is missing, of another form, not valid, or no table.
    """
    path = Path(path)
    if of_folder := os.path.isdir(path):
        path = path / "config.toml"
    if path.suffix not in PARSERS:
        raise UserError(f"settings file {path}: its name must end in {', '.join(PARSERS)}")
    table = read_parsed(PARSERS[path.suffix], path.suffix[1:], path, f"settings file {path}")
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise UserError(f"settings file {path} holds no table of names and values")
    if of_folder or is_of_a_run(table):
        require_tables(table, f"settings file {path}")
    if not is_of_a_run(table):
        return table
    refuse_older(table, path)
    return from_here(table, path.parent)


def refuse_older(table: Mapping[str, Any], path: Path) -> None:
    """UserError for the record of a run that was begun by a version whose knobs had other names."""
    about = table.get("about")
    known = about.get("format", 1) if isinstance(about, Mapping) else FORMAT
    require(
        known == FORMAT,
        f"{path} is of an earlier selfteach (config format {known}, now {FORMAT}): selfteach report and show read its "
        f"run, but it cannot go on; start a new one, perhaps from its weights (--model {path.parent / 'model'})",
    )


def given_from_python(table: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a run was given as an object, by its record: which of recipe, task, reward and model."""
    run = table.get("run")
    given = run.get("given") if isinstance(run, Mapping) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def is_of_a_run(table: Mapping[str, Any]) -> bool:
    """Whether it is a run's own record, which is complete."""
    return isinstance(table.get("about"), Mapping) and isinstance(table.get("recipe"), Mapping)
