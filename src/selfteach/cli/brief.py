"""A help that fits a screen: one line an option, its default beside it. --help-all says everything."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from selfteach.recipes.knobs import field_docs
from selfteach.words import option

LABEL = 34
"""Columns of an option and its default."""
PLACEHOLDER = "…"


def brief(program: str, about: str, groups: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A program's help: the groups' lines under their titles, none wider than the terminal."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    lines = [f"usage: {program}", *about.split("\n")]
    for title, options in groups:
        lines += [f"\n{title}", *options]
    return "\n".join(cut(line, width) for line in "\n".join(lines).split("\n"))


def option_lines(settings: Any, only: Collection[str] | None = None) -> Iterator[str]:
    """A line for each field of settings that is none of settings itself (of ``only`` these), with its value here."""
    said = field_docs(type(settings))
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value) or (only is not None and one.name not in only):
            continue
        name = "recipe" if one.name == "own_recipe" else one.name
        label = f"{option(name)} {written(value)}"
        yield f"  {label:<{LABEL}} {first_sentence(said.get(one.name, ''))}"


def written(value: Any) -> str:
    """A default as it would be given; nothing for what is off or empty."""
    if value is None or isinstance(value, bool) or value in ("", ()):
        return "none" if value is None else "" if value in (False, "", ()) else "true"
    if isinstance(value, tuple):
        return f"{len(value)} turns" if isinstance(value[0], dict) else " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.)])\s(?=[A-Z])", " ".join(text.replace("``", "").split()), maxsplit=1)[0]


def cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1].rstrip() + PLACEHOLDER
