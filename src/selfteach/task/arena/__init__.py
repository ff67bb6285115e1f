"""The arena: tiny worlds, each with a pretrained model, in which self-distillation can be seen to work.

A world is a task whose problems and verifier are pure functions of a seed and an index. Its model was taught
three things in pretraining: to answer step by step in a style of its own, to guess at one operation it was
never shown rightly, and to copy the results out of a terse solution into its own style.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from selfteach.errors import UserError
from selfteach.task.arena import chain, table
from selfteach.task.arena.world import World

__all__ = ["WORLDS", "World", "model_folder", "open_world"]

WORDING = {"solution": "{problem}|{solution}"}
WORLDS = {
    "table": World("table", table.pose, table.work, table.final, table.fault, WORDING),
    "chain": World("chain", chain.pose, chain.work, chain.final, chain.fault, WORDING),
}


def open_world(name: str, seed: int = 0) -> World:
    """The world of that name; ``seed`` chooses its training examples. Raises UserError if there is none."""
    if name not in WORLDS:
        raise UserError(f"arena: there is no world {name!r}; choose one of {', '.join(WORLDS)}")
    return replace(WORLDS[name], seed=seed, verdicts=Counter())


def model_folder(world: str) -> Path:
    """The folder of a world's pretrained model, an ordinary Hugging Face one, as it came with the package."""
    open_world(world)
    return Path(str(files(__name__).joinpath("models", world)))
