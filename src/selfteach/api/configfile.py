"""Settings from a file: a run's config.toml, or TOML, YAML or JSON written by hand."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from selfteach.errors import UserError
from selfteach.outside import read_text, said_by, within_bounds

FORMS = (".toml", ".yaml", ".yml", ".json")


def read_settings(path: Path | str) -> dict[str, Any]:
    """The table that a settings file holds; of a run's folder its config.toml.

    UserError: it is missing, of another form, not valid, or no table.
    """
    path = Path(path)
    path = path / "config.toml" if os.path.isdir(path) else path
    if path.suffix not in FORMS:
        raise UserError(f"settings file {path}: its name must end in {', '.join(FORMS)}")
    what = f"settings file {path}"
    text = read_text(path, what)
    try:
        table = within_bounds(parsed(path.suffix, text))
    except Exception as problem:  # YAML's builders of dates and numbers raise nearly anything
        raise UserError(f"{what} is not valid {path.suffix[1:]} ({said_by(problem)})") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise UserError(f"settings file {path} holds no table of names and values")
    return table


def parsed(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text) if suffix == ".json" else yaml.safe_load(text)


def given_from_python(table: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a run was given as an object, by its record: which of recipe, task, reward and model."""
    run = table.get("run")
    given = run.get("given") if isinstance(run, Mapping) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def is_of_a_run(table: Mapping[str, Any]) -> bool:
    """Whether it is a run's own record, which is complete."""
    return isinstance(table.get("about"), Mapping) and isinstance(table.get("recipe"), Mapping)
