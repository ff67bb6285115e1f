"""``selfteach probe NAME RECIPE …``: diagnostics of a recipe on a task and model, without training."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rich.console import Console

from selfteach.api.progress import Lines
from selfteach.checks import nearest
from selfteach.cli.console import parsed
from selfteach.cli.train import configured
from selfteach.errors import UserError, diverged, within_memory
from selfteach.probe import alignment, usefulness, viability
from selfteach.probe.finding import Finding, on_terminal, write_numbers
from selfteach.probe.page import write_page
from selfteach.probe.scene import Scene, set_scene
from selfteach.words import name_of

LOG_WIDTH = 180


@dataclass(frozen=True)
class Probe:
    """What it tells, its knobs, and what it does with a scene."""

    tells: str
    knobs: type[Any]
    look: Callable[[Scene, Any], Finding]


PROBES = {
    "alignment": Probe("where a loss's gradient points to success", alignment.Knobs, alignment.probe),
    "branches": Probe("which teacher tokens lead to a right answer", viability.Knobs, viability.probe),
    "views": Probe("what each teacher view is worth", usefulness.Knobs, usefulness.probe),
}


def command(words: Sequence[str]) -> int:
    if not words:
        raise UserError(f"which probe? selfteach probe NAME RECIPE; known: {', '.join(PROBES)}")
    if words[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0)
    name, rest = words[0], list(words[1:])
    if name not in PROBES:
        raise UserError(f"there is no probe {name!r}{nearest(name, PROBES)}")
    probe, program = PROBES[name], f"selfteach probe {name} RECIPE"
    mine, theirs = divided(rest, [one.name for one in fields(probe.knobs)])
    if {"-h", "--help"} & set(theirs):
        mine = ["--help"]
    about = "Beside these, every knob of `selfteach train RECIPE` (selfteach train RECIPE --help)."
    knobs = parsed(probe.knobs, mine, program=program, default=probe.knobs(), description=about)
    config, _ = configured(theirs, command=f"probe {name}")
    progress = Lines()
    with within_memory("probing"), diverged("probe"):
        found = probe.look(set_scene(config, knobs.views, progress), knobs)
    command_line = shlex.join(["selfteach", "probe", *words])
    model = config.loading.model or f"arena {config.task_name}"
    run = {"command": command_line, "recipe": f"{config.recipe_name}, preset {config.preset}", "model": model}
    found = replace(found, about={**run, "task": config.task_name, "seed": config.seed, **found.about})
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    for table in found.tables:
        console.print(on_terminal(table))
    print(f"numbers  {write_numbers(found, config.out)}\npage     {write_page(found, config.out)}")
    return 0


def divided(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the options called ``names`` with their values, the other words)."""
    sides: tuple[list[str], list[str]] = ([], [])
    side = 1
    for word in words:
        if word.startswith("-"):
            side = 0 if name_of(word) in names else 1
        sides[side].append(word)
    return sides


def usage() -> str:
    rows = "\n".join(f"  {name:<10} {probe.tells}" for name, probe in PROBES.items())
    return (
        "usage: selfteach probe NAME RECIPE …   (the words of selfteach train; nothing is trained)\n\n"
        f"{rows}\n\nselfteach probe NAME --help lists a probe's own knobs."
    )
