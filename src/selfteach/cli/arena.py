"""``selfteach arena rebuild|measure MODEL``: make a shipped model anew, or measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfteach.cli.console import parsed
from selfteach.settings import Seed, settings


@settings
class Arguments:
    action: Annotated[Literal["rebuild", "measure"], tyro.conf.Positional]
    """rebuild: pretrain from a seed; measure: accuracy without help and under each view it was taught."""
    model: Annotated[str, tyro.conf.Positional]
    """A shipped model: table, chain, tutor, trail, facts, rule, secrets, ambiguous, json, tutor-unsure, tutor-large,
    tutor-large-other, doors, doors-expert, calculator, calculator-expert, stream or reverse."""
    out: Path | None = None
    """Folder of the rebuilt model (none: models/arena-MODEL)."""
    seed: Seed = 0
    """Seed of the pretraining."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach arena")
    if given.action == "measure":
        from selfteach.task.arena import arena_model
        from selfteach.task.arena.measure import accuracy_table

        print(accuracy_table(given.model, arena_model(given.model)))
        return 0
    from selfteach.task.arena.pretrain import rebuild

    folder = given.out or Path("models") / f"arena-{given.model}"
    folder.mkdir(parents=True, exist_ok=True)  # refused before the minutes of training, not after
    rebuild(given.model, folder, seed=given.seed)
    print(folder)
    return 0
