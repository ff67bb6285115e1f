"""``selfteach arena rebuild|measure WORLD``: make a world's pretrained model anew, or measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfteach.cli.console import parsed


@dataclass(frozen=True)
class Arguments:
    action: Annotated[Literal["rebuild", "measure"], tyro.conf.Positional]
    """rebuild: pretrain from a seed; measure: plain and hinted accuracy."""
    world: Annotated[str, tyro.conf.Positional]
    """table or chain."""
    out: Path | None = None
    """Folder of the rebuilt model (none: models/arena-WORLD)."""
    seed: int = 0
    """Seed of the pretraining."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach arena")
    if given.action == "measure":
        from selfteach.task.arena import measure

        measure.main([given.world])
        return 0
    from selfteach.task.arena.pretrain import rebuild

    folder = given.out or Path("models") / f"arena-{given.world}"
    rebuild(given.world, folder, seed=given.seed)
    print(folder)
    return 0
