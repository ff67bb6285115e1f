"""A run's config.toml: how it is written and read, and in what two of them differ."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from selfteach.errors import UserError
from selfteach.outside import read_toml
from selfteach.training.jsonrows import jsonable
from selfteach.wording import shortened

TABLES = (
    "about", "recipe", "paper", "stages", "run", "loading", "task_options", "evaluation", "bookkeeping", "vllm",
    "settings", "inputs", "versions",
)  # fmt: skip
"""What a run's record consists of."""
RESTORE = "restore it or start a new run"


def saved_config(path: Path) -> dict[str, Any]:
    """What a run's config.toml holds. UserError if it is not valid, or no run's record."""
    record = read_toml(path, str(path), RESTORE)
    require_tables(record, str(path))
    return record


def require_tables(record: Mapping[str, Any], what: str) -> None:
    """UserError for a run's record in which something else stands in the place of a table."""
    for name in TABLES:
        if not isinstance(record.get(name, {}), Mapping):
            raise UserError(
                f"{what} has {name} = {shortened(repr(record[name]), 60)}, where a table belongs; {RESTORE}"
            )


def refuse_older_format(path: Path, config: Mapping[str, Any]) -> None:
    """UserError if the run was begun by a version whose knobs had other names."""
    saved, ours = (
        table.get("about", {}).get("format", 1) for table in (saved_config(path / "config.toml"), config)
    )
    if saved != ours:
        raise UserError(
            f"{path} was begun by an earlier selfteach (config format {saved}, now {ours}): its report still opens, "
            "but it cannot go on; start a new run with another --out"
        )


def changes(path: Path, config: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """The knobs whose values in a run's config.toml are not those of ``config``, as ``differing`` names them."""
    return differing(saved_config(path / "config.toml"), tomllib.loads(config_text(config)), free)


def differing(saved: Mapping[str, Any], given: Mapping[str, Any], free: Collection[str] = ()) -> list[str]:
    """The knobs whose values differ, each as ``name: saved → given`` with a dotted name; of what a run reads, in words:
    its fingerprints say nothing."""
    old, new = dict(dotted(saved)), dict(dotted(given))
    names = [name for name in {**old, **new} if not any(name == f or name.startswith(f + ".") for f in free)]
    return [
        told(name, old.get(name, "unset"), new.get(name, "unset"))
        for name in names
        if not _same(old.get(name), new.get(name))
    ]


def told(name: str, old: Any, new: Any) -> str:
    """One difference."""
    if name.startswith("inputs."):
        what = (
            "is new" if old == "unset" else "is not there any more" if new == "unset" else "has changed since"
        )
        return f"{name}: what it reads {what}"
    return f"{name}: {shortened(repr(old), 60)} → {shortened(repr(new), 60)}"


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested table under its dotted name."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _same(old: Any, new: Any) -> bool:
    return bool(jsonable(old) == jsonable(new))  # two NaN are the same value of a knob


def anew(config: Mapping[str, Any]) -> str:
    """What can be done in the place of going on; only a run of text begins with another one's weights."""
    weights = "" if is_without_tokens(config) else ", perhaps from this one's weights (--model RUN)"
    return f"start a new run in another --out{weights}"


def advice_on(changed: Sequence[str], config: Mapping[str, Any]) -> str:
    """What to do where a run cannot go on with these values."""
    instead = anew(config)
    if all(one.startswith("inputs.") for one in changed):
        return f"put back what it reads, or {instead}"
    return f"leave these out to go on (--resume --out RUN is enough), or {instead}"


def config_text(config: Mapping[str, Any]) -> str:
    """What config.toml says of a run. UserError for text that is not Unicode, by its knob's name."""
    # A string with half a surrogate pair has no UTF-8; TOML, which is UTF-8, must refuse it here by name.
    for name, value in dotted(config):
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise UserError(f"{name}: {value!r} is not valid Unicode text; write it without lone surrogates")
    return toml_text(config)


def toml_text(table: Mapping[str, Any]) -> str:
    """A table as TOML. Long texts keep their lines, unless they have a carriage return, which TOML would read as
    none."""
    returns = "\\r" in json.dumps(table, default=str)
    return tomli_w.dumps(with_none_spelled(table), multiline_strings=not returns)


def with_none_spelled(table: Mapping[str, Any]) -> dict[str, Any]:
    """A nested table with the word "none" for None: TOML has no null."""
    return {
        key: with_none_spelled(value) if isinstance(value, Mapping) else "none" if value is None else value
        for key, value in table.items()
    }


def is_without_tokens(table: Mapping[str, Any]) -> bool:
    """Whether a run's record is that of a recipe without tokens, whose learner alone knows what its stages make of its
    steps."""
    return "tracking" in table
