"""``selfteach recipes [NAME] [--json]``: what methods there are, and one in full."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from selfteach.api.resolve import kind_of
from selfteach.cli.console import parsed
from selfteach.recipes import METHODS, Method, NetworkRecipe, Recipe, knobs, preset_of
from selfteach.recipes.knobs import documented
from selfteach.studies.laptop import presets


@dataclass(frozen=True)
class Arguments:
    name: Annotated[str, tyro.conf.Positional] = ""
    """A recipe, or FILE:NAME of one of your own (none: list them all)."""
    json: bool = False
    """Print JSON."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach recipes", default=Arguments())
    console = Console()
    if given.json:
        chosen = [given.name] if given.name else list(METHODS)
        described = {name: full(name) for name in chosen}
        print(json.dumps(described[given.name] if given.name else described, indent=1, default=str))
    elif given.name:
        show(console, given.name)
    else:
        console.print(listing())
    return 0


def listing() -> Table:
    # An address that is cut or broken leads nowhere.
    source = Column("paper", no_wrap=True)
    table = Table(Column("recipe", no_wrap=True), "method", source, "loss", box=None, pad_edge=False)
    for name, kind in METHODS.items():
        table.add_row(name, kind.title, kind.source.rpartition("https://")[2], escape(kind.formula))
    return table


def full(name: str) -> dict[str, Any]:
    """The teachers, fields and knobs a recipe needs, with its presets' values."""
    recipe = paper(name)
    return {
        "name": name,
        "title": recipe.title,
        "source": recipe.source,
        "formula": recipe.formula,
        **(needs_of_text(recipe) if isinstance(recipe, Recipe) else {}),
        **(needs_of_network(recipe) if isinstance(recipe, NetworkRecipe) else {}),
        "knobs": {
            knob: {"default": value, "meaning": meaning}
            for knob, (value, meaning) in documented(recipe).items()
        },
        "presets": {label: changed(recipe, preset) for label, preset in presets(type(recipe)).items()},
    }


def needs_of_network(recipe: NetworkRecipe) -> dict[str, Any]:
    """What is trained, who trains it, and the outputs that its losses read."""
    return {
        "networks": list(recipe.networks),
        "learner": recipe.learner,
        "outputs": dict(recipe.outputs),
    }


def needs_of_text(recipe: Recipe) -> dict[str, Any]:
    """Who scores and writes, and what a row must hold."""
    return {
        "teachers": {
            role: {
                "weights": type(teacher.weights).__name__.lower(),
                "view": teacher.view.name,
                "fields": list(teacher.view.fields),
                "thinking": teacher.thinking,
            }
            for role, teacher in recipe.teachers.items()
        },
        "writers": sorted(recipe.writers),
        "numbers": dict(type(recipe).numbers),
        "marks": list(type(recipe).marks),
    }


def paper(name: str) -> Method:
    """The recipe of this name, or FILE:NAME, at its first preset."""
    found = kind_of(name)[2]
    return preset_of(found) if isinstance(found, type) else found


def changed(default: Method, preset: Method) -> dict[str, Any]:
    """The knobs in which a preset differs from the default."""
    base = knobs(default)
    return {knob: value for knob, value in knobs(preset).items() if value != base[knob]}


def show(console: Console, name: str) -> None:
    recipe = paper(name)
    source = f"  ({recipe.source})" if recipe.source else ""
    console.print(f"[bold]{name}[/]  {recipe.title or type(recipe).__name__}{source}\n")
    console.print((type(recipe).__doc__ or "").strip() + "\n", markup=False, highlight=False)
    table = Table("knob", "default", "meaning", box=None, pad_edge=False)
    for knob, (value, meaning) in documented(recipe).items():
        table.add_row(knob, escape(str(value)), escape(meaning))
    console.print(table)
    if isinstance(recipe, Recipe):
        for role, one in recipe.roles.items():
            console.print(f"role [bold]{role}[/]: {one.weights} under {one.view}", highlight=False)
    if isinstance(recipe, NetworkRecipe):
        for output, meaning in recipe.outputs.items():
            console.print(f"output {output}: {meaning}", markup=False, highlight=False)
    for label, preset in presets(type(recipe)).items():
        changes = ", ".join(f"{k}={v}" for k, v in changed(recipe, preset).items()) or "the values above"
        console.print(f"preset [bold]{label}[/]: {escape(changes)}")
