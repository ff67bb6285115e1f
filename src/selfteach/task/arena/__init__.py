"""The arena: tiny worlds, each with a pretrained model, in which self-distillation can be seen to work.

A world is a task whose problems and verifier are pure functions of a seed and an index. Its model was taught in
pretraining to answer step by step in a style of its own, to guess at one operation it was never shown rightly,
and to carry what it is told (a terse solution at least) over into its own style.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from selfteach.errors import UserError
from selfteach.task.arena import (
    ambiguous,
    calculator,
    chain,
    contract,
    doors,
    reverse,
    rule,
    secrets,
    stream,
    table,
    wording,
)
from selfteach.task.arena.constructed import Constructed
from selfteach.task.arena.facts import Facts, known_of
from selfteach.task.arena.game import Game
from selfteach.task.arena.puzzle import Puzzle
from selfteach.task.arena.taught import TaughtWorld
from selfteach.task.arena.world import World

__all__ = [
    "MODELS",
    "WORLDS",
    "AnyWorld",
    "Constructed",
    "Facts",
    "Game",
    "Puzzle",
    "TaughtWorld",
    "World",
    "arena_model",
    "model_folder",
    "open_world",
    "resolve_model",
]

AnyWorld = World | Facts | Puzzle | Game

_SOLUTION = {"solution": "{problem}|{solution}"}
TABLE = World("table", table.pose, table.work, table.final, table.fault, _SOLUTION)
CHAIN = World("chain", chain.pose, chain.work, chain.final, chain.fault, _SOLUTION)
TUTOR = TaughtWorld("tutor", table.pose, table.work, table.final, table.fault, wording.TUTOR)
TRAIL = TaughtWorld(
    "trail", chain.pose, chain.work, chain.final, chain.fault, wording.TRAIL, steps_stand_alone=False
)
FACTS = Facts("facts", wording.FACTS)
KNOWN = Facts("known", wording.FACTS, drawn=known_of)
RULE = Puzzle("rule", rule.pose, rule.tell, rule.kind, rule.judge, rule.WORDING)
SECRETS = Puzzle("secrets", secrets.pose, secrets.tell, secrets.kind, secrets.judge, secrets.WORDING)
AMBIGUOUS = Puzzle(
    "ambiguous", ambiguous.pose, ambiguous.tell, ambiguous.kind, ambiguous.judge, ambiguous.WORDING
)
JSON = Puzzle("json", contract.pose, contract.tell, contract.kind, contract.judge, contract.WORDING)
DOORS = Game(
    "doors",
    doors.pose,
    doors.tell,
    doors.kind,
    doors.begin,
    doors.act,
    doors.blunder,
    doors.WORDING,
    doors.MAX_TURNS,
)
CALCULATOR = Game(
    "calculator",
    calculator.pose,
    calculator.tell,
    calculator.kind,
    calculator.begin,
    calculator.act,
    calculator.blunder,
    calculator.WORDING,
    calculator.MAX_TURNS,
)
STREAM = Game(
    "stream",
    stream.pose,
    stream.tell,
    stream.kind,
    stream.begin,
    stream.act,
    None,
    stream.WORDING,
    stream.MOST,
    opening=stream.opening,
)
REVERSE = Constructed(
    "reverse",
    reverse.pose,
    reverse.tell,
    reverse.kind,
    reverse.judge,
    reverse.WORDING,
    hops=reverse.HOPS,
    asks=reverse.asks,
    constructed=reverse.constructed,
)
SUMS = World("sums", table.pose_known, table.work, table.final, table.fault, {})

WORLDS: dict[str, AnyWorld] = {
    w.name: w
    for w in (
        TABLE,
        CHAIN,
        TUTOR,
        TRAIL,
        FACTS,
        KNOWN,
        SUMS,
        RULE,
        SECRETS,
        AMBIGUOUS,
        JSON,
        DOORS,
        CALCULATOR,
        STREAM,
        REVERSE,
    )
}
MODELS: dict[str, tuple[str, ...]] = {
    "table": ("table",),
    "chain": ("chain",),
    "tutor": ("tutor",),
    "trail": ("trail",),
    "facts": ("facts", "known", "tutor", "sums"),
    "rule": ("rule",),
    "secrets": ("secrets",),
    "ambiguous": ("ambiguous",),
    "json": ("json",),
    "tutor-unsure": ("tutor",),
    "tutor-large": ("tutor",),
    "tutor-large-other": ("tutor",),
    "doors": ("doors",),
    "doors-expert": ("doors",),
    "calculator": ("calculator",),
    "calculator-expert": ("calculator",),
    "stream": ("stream",),
    "reverse": ("reverse",),
}
"""The shipped models, each with the worlds whose problems it was taught."""
BORROWED = {"known": "facts", "sums": "facts"}
"""Worlds without a model of their own, and whose they take."""
MODEL_PREFIX = "arena:"


def open_world(name: str, seed: int = 0) -> AnyWorld:
    """The world of that name; ``seed`` chooses its training examples. Raises UserError if there is none."""
    if name not in WORLDS:
        raise UserError(f"arena: there is no world {name!r}; choose one of {', '.join(WORLDS)}")
    return replace(WORLDS[name], seed=seed, verdicts=Counter())


def model_folder(world: str) -> Path:
    """The folder of the pretrained model that goes with a world."""
    open_world(world)
    return arena_model(BORROWED.get(world, world))


def arena_model(name: str) -> Path:
    """The folder of a shipped model, an ordinary Hugging Face one. Raises UserError if there is none of that name."""
    return Path(str(files(__name__).joinpath("models", named_model(name))))


def named_model(name: str) -> str:
    """``name``, if a shipped model has it; else a UserError that names the choices."""
    if name not in MODELS:
        raise UserError(f"arena: there is no model {name!r}; choose one of {', '.join(MODELS)}")
    return name


def resolve_model(text: str) -> str:
    """``arena:NAME`` as the folder of that shipped model; a run's folder as that of the model it trained; any other
    text, a folder or a hub id, as it is."""
    if os.path.isfile(Path(text) / "config.toml") and os.path.isdir(Path(text) / "model"):
        return str(Path(text) / "model")
    if not text.startswith(MODEL_PREFIX):
        return text
    return str(arena_model(text.removeprefix(MODEL_PREFIX)))
