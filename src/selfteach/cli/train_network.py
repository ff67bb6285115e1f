"""``selfteach train RECIPE`` of a recipe without tokens: from words to a resolved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from selfteach.api.network import OF_TEXT, network_draft, refuse_text
from selfteach.api.resolve import NETWORK_BUNDLES, placed
from selfteach.cli.brief import brief, option_lines
from selfteach.cli.console import parsed
from selfteach.recipes import NetworkRecipe
from selfteach.settings import settings
from selfteach.studies.laptop import presets
from selfteach.training.network_config import NetworkConfig
from selfteach.words import given_names, value_of


@settings
class NetworkWhere:
    """Where the run goes, and what it begins with."""

    own_recipe: Annotated[str, tyro.conf.arg(name="recipe")] = ""
    """FILE:NAME of a recipe of your own, in the place of RECIPE (docs/add-a-method.md)."""
    out: Path | None = None
    """Run folder (none: runs/RECIPE-DATA-TIME)."""
    preset: str | None = None
    """A named setting of the recipe (none: "laptop" if there is one, else the paper's)."""
    config: Path | None = None
    """Settings to start from: a run's folder or config.toml, or TOML, YAML or JSON of your own; flags override it."""
    resume: bool = False
    """Go on with the run in --out: its settings are read from there."""
    dry_run: bool = False
    """Print the resolved settings, as --config takes them, and do nothing."""


def network_run(
    name: str | None, rest: Sequence[str], table: Mapping[str, Any], command: str
) -> tuple[NetworkConfig, NetworkWhere]:
    """The run that the words behind a recipe's name ask for, and what they say of where it goes."""
    begun = network_draft(name, preset=value_of(rest, "preset"), table=table)
    for one in sorted(given_names(rest) & set(OF_TEXT)):
        refuse_text(one, begun.recipe_name)
    if "--help-all" not in rest and {"-h", "--help"} & set(rest):
        program = f"selfteach {command} {begun.recipe_name} [OPTIONS]"
        print(brief(program, described(begun), shown(begun)))
        raise SystemExit(0)
    kind = network_arguments(type(begun.recipe))
    where = NetworkWhere(preset=begun.preset)
    given = parsed(
        kind, ["--help" if word == "--help-all" else word for word in rest],
        program=f"selfteach {command} {begun.recipe_name}",
        default=kind(begun.recipe, where, *(getattr(begun, part) for part in NETWORK_BUNDLES)),
        description=described(begun),
    )  # fmt: skip
    config = replace(begun, recipe=given.recipe, settings=given.settings, tracking=given.tracking)
    return placed(config, given.where.out or table.get("out")), given.where


def network_arguments(recipe: type[NetworkRecipe]) -> Any:
    """The knobs of ``selfteach train`` for one recipe, as a dataclass."""
    bundles = [(part, kind, field(default_factory=kind)) for part, kind in NETWORK_BUNDLES.items()]
    where = ("where", NetworkWhere, field(default_factory=NetworkWhere))
    return make_dataclass("NetworkArguments", [("recipe", recipe), where, *bundles], frozen=True)


def shown(begun: NetworkConfig) -> Any:
    """The groups of the short help."""
    yield f"Knobs of {begun.recipe_name}", option_lines(begun.recipe)
    parts = [getattr(begun.recipe, one.name) for one in fields(begun.recipe)]
    if lines := [line for one in parts if is_dataclass(one) for line in option_lines(one)]:
        yield "How it is trained", lines
    yield "The run", [*option_lines(NetworkWhere(preset=begun.preset)), *option_lines(begun.settings)]


def described(begun: NetworkConfig) -> str:
    known = ", ".join(presets(type(begun.recipe)))
    return f"Defaults below are those of preset {begun.preset}. Presets: {known}.\n--help-all says more."
