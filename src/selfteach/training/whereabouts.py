"""Paths in a run's record: where they were meant from, and whether two of them name the same thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfteach.importing import is_reference
from selfteach.training.inputs import file_of, fingerprint

STARTED_IN = "started_in"
"""In a record's table ``run``: the folder that a run was started in, from the run's own folder."""

MAY_NAME_FILES = (
    "run.task",
    "run.reward",
    "loading.model",
    "loading.chat_template",
    "task_options.held_out_file",
    "evaluation.eval_also",
    "bookkeeping.token_classes",
)
"""Settings by dotted name, beside the recipe's, whose teachers may be folders."""


def started_in(out: Path) -> str:
    """The present folder, from the run's folder ``out``: both may move together."""
    here, there = Path.cwd().resolve(), out.resolve()
    try:
        return os.path.relpath(here, there)
    except ValueError:  # on another drive
        return str(here)


def base_of(record: Mapping[str, Any], folder: Path) -> Path:
    """The folder that the relative paths of a run's record are meant from; the present one if it does not say."""
    said = record.get("run", {}).get(STARTED_IN)
    return (folder.resolve() / said).resolve() if isinstance(said, str) else Path.cwd()


def same_thing(old: Any, new: Any, base: Path) -> bool:
    """Whether two values name the same file or folder, or one of the same content; ``old`` is meant from ``base``.

    Of references FILE:NAME the names must be the same too; of lists, every item.
    """
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(
            a == b or same_thing(a, b, base) for a, b in zip(old, new, strict=True)
        )
    if not (isinstance(old, str) and isinstance(new, str) and old and new):
        return False
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
        if not (name in MAY_NAME_FILES or name.startswith("recipe.")):
            continue
        if name in new and value != new[name] and same_thing(value, new[name], base):
            yield name
