"""Paths in a run's record: where they were meant from, and whether two of them name the same thing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfteach.importing import is_reference
from selfteach.task.arena import WORLDS
from selfteach.training.inputs import KNOBS, MAY_NAME_FILES, file_of, fingerprint

STARTED_IN = "started_in"
"""In a record's table ``run``: the folder that a run was started in, from the run's own folder."""

ROUTE = re.compile(r"\s*([\w-]+=)(.+?)\s*")
"""One of several models that teach, behind the tag of the problems that it teaches: TAG=MODEL,TAG=MODEL."""


def started_in(out: Path) -> str:
    """The present folder, from the run's folder ``out``: both may move together."""
    here, there = Path.cwd().resolve(), out.resolve()
    try:
        return os.path.relpath(here, there)
    except ValueError:  # on another drive
        return str(here)


def base_of(record: Mapping[str, Any], folder: Path) -> Path:
    """The folder that the relative paths of a run's record are meant from; the present one if it does not say."""
    run = record.get("run")
    said = run.get(STARTED_IN) if isinstance(run, Mapping) else None
    return (folder.resolve() / said).resolve() if isinstance(said, str) else Path.cwd()


def from_here(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A run's record with its relative paths as they are meant: from the folder in which the run was started."""
    base = base_of(record, folder)
    if base == Path.cwd().resolve():
        return dict(record)
    found = {name: dict(part) if isinstance(part, Mapping) else part for name, part in record.items()}
    for setting in (*MAY_NAME_FILES.values(), *KNOBS):
        table, _, knob = setting.partition(".")
        if isinstance(part := found.get(table), dict) and knob in part:
            part[knob] = moved(part[knob], base)
    if isinstance(recipe := found.get("recipe"), dict):
        own = {knob: value for knob, value in recipe.items() if knob not in ("name", "preset")}
        recipe |= with_models_moved(own, base)
    return found


def moved(value: Any, base: Path) -> Any:
    """A name, or several, of which each that is a file or folder seen from ``base`` is so from anywhere."""
    if isinstance(value, list):
        return [moved(one, base) for one in value]
    if not isinstance(value, str) or not value or value in WORLDS or Path(value).is_absolute():
        return value
    with contextlib.suppress(
        OSError, ValueError
    ):  # a text that no path can be: too long, or with a null byte
        if (base / file_of(value)).exists():
            return os.path.join(base, value)  # as it is spelled: two names of one model stay two
    return value


def with_models_moved(knobs: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A recipe's knobs with every folder of a model, seen from ``base``, as it is from anywhere. Of other words it is
    not known whether they name anything."""

    def of_knob(value: Any) -> Any:
        if isinstance(value, Mapping):
            return with_models_moved(value, base)
        if not isinstance(value, str):
            return value
        named = models_in(value)
        found = [(tag, moved(one, base) if holds_model(base, one) else one) for tag, one in named]
        return value if found == named else ",".join(tag + one for tag, one in found)

    return {name: of_knob(value) for name, value in knobs.items()}


def models_in(value: str) -> list[tuple[str, str]]:
    """(tag with its =, model) of each of TAG=MODEL,TAG=MODEL; of any other text itself, without a tag."""
    found = [ROUTE.fullmatch(part) for part in value.split(",")]
    tagged = [(one[1], one[2]) for one in found if one is not None]
    return tagged if len(tagged) == len(found) else [("", value)]


def holds_model(base: Path, name: str) -> bool:
    """Whether it is the folder of a model, an adapter or a run, seen from ``base``."""
    try:
        files = ("config.json", "adapter_config.json", "config.toml")
        return bool(name) and any((base / name / file).is_file() for file in files)
    except (OSError, ValueError):
        return False


def same_thing(old: Any, new: Any, base: Path) -> bool:
    """Whether two values name the same file or folder, or one of the same content; ``old`` is meant from ``base``.

    Of references FILE:NAME the names must be the same too; of lists, every item.
    """
    if isinstance(old, list | tuple) and isinstance(
        new, list | tuple
    ):  # a record has lists, settings have tuples
        return len(old) == len(new) and all(
            a == b or same_thing(a, b, base) for a, b in zip(old, new, strict=True)
        )
    if not (isinstance(old, str) and isinstance(new, str) and old and new):
        return False
    those, these = models_in(old), models_in(new)
    if any(tag for tag, _ in (*those, *these)):
        return [tag for tag, _ in those] == [tag for tag, _ in these] and all(
            a == b or same_thing(a, b, base) for (_, a), (_, b) in zip(those, these, strict=True)
        )
    if is_reference(old) != is_reference(new) or (
        is_reference(old) and old.rpartition(":")[2] != new.rpartition(":")[2]
    ):
        return False
    there, here = base / file_of(old), file_of(new)
    if not (there.exists() and here.exists()):
        return False
    return os.path.samefile(there, here) or fingerprint(there) == fingerprint(here)


def renamed(old: Mapping[str, Any], new: Mapping[str, Any], base: Path) -> Iterator[str]:
    """The dotted names of values that differ in how they are written alone."""
    for name, value in old.items():
        if not (name in MAY_NAME_FILES.values() or name.startswith("recipe.")):
            continue
        if name in new and value != new[name] and same_thing(value, new[name], base):
            yield name
