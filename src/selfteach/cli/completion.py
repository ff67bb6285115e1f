"""Completion for shells: ``selfteach --tyro-print-completion bash``, every command, recipe and option."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from selfteach.api.evaluating import Draft
from selfteach.checks import require
from selfteach.cli import (
    COMMANDS,
    arena,
    chat,
    compare,
    demo,
    evaluate,
    export,
    fetch,
    recipes,
    report,
    show,
    study,
    watch,
)
from selfteach.cli.console import registry
from selfteach.cli.probe import PROBES
from selfteach.cli.score import scored_arguments
from selfteach.cli.train import arguments
from selfteach.cli.train_network import network_arguments
from selfteach.recipes import NETWORK_RECIPES, RECIPES

SHELLS = ("bash", "zsh", "tcsh")
PRINT, WRITE = "--tyro-print-completion", "--tyro-write-completion"


def command(words: Sequence[str]) -> int:
    """Print or write the script; tyro's own words ask for it, as its users know them."""
    flag, _, shell = words[0].partition("=")
    rest = [*([shell] if shell else []), *words[1:]]
    require(bool(rest) and rest[0] in SHELLS, f"{flag} wants a shell: {', '.join(SHELLS)}")
    require(flag == PRINT or len(rest) == 2, f"{WRITE} wants a shell and a file: {WRITE} bash FILE")
    with contextlib.suppress(SystemExit):
        tyro.cli(
            everything(), prog="selfteach", args=[flag, *rest], registry=registry,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs),
        )  # fmt: skip
    return 0


def everything() -> Any:
    """All commands as one type."""
    draft = Draft()
    networks = {name: network_arguments(kind) for name, kind in NETWORK_RECIPES.items()}
    trained = several({**{name: arguments(kind) for name, kind in RECIPES.items()}, **networks})
    kinds: dict[str, Any] = {
        "train": trained,
        "doctor": trained,
        "score": several({name: scored_arguments(kind) for name, kind in RECIPES.items()}),
        "eval": evaluate.arguments({"how": draft.how, "loading": draft.loading, "data": draft.options}),
        "probe": several({name: probed(probe.knobs) for name, probe in PROBES.items()}),
    }
    modules = (arena, chat, compare, demo, export, fetch, recipes, report, show, study, watch)
    kinds |= {module.__name__.rpartition(".")[2]: module.Arguments for module in modules}
    return several({name: kinds[name] for name in COMMANDS})


def probed(knobs: type[Any]) -> Any:
    """A probe's own knobs behind the recipe's name."""
    named: Any = Literal[tuple(RECIPES)]
    recipe = ("recipe", Annotated[named, tyro.conf.Positional], field())
    return make_dataclass("Probed", [recipe, ("knobs", knobs, field(default_factory=knobs))])


def several(kinds: Mapping[str, Any]) -> Any:
    return Union[tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items())]  # noqa: UP007
