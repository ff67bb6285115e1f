"""What a laptop runs: each method's arena world, and the settings at which a 0.34 M-parameter model learns in it.

These are preset "arena" of each method, beside the released settings that the recipes hold: ``LAPTOP`` of the file of
this folder that is called as the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.recipes import METHODS, Method, NetworkRecipe, Recipe, preset_of, with_knobs

ARENA, PAPER, LAPTOP = "arena", "paper", "laptop"
Knobs = Mapping[str, Any]
N = TypeVar("N", bound=NetworkRecipe)
M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Laptop:
    """``world``: what ``selfteach train NAME`` trains on unless told otherwise; ``knobs``: preset "arena"; ``further``:
    more presets for the arena, by name. One called as a world is taken there in the place of "arena"."""

    world: str = "table"
    knobs: Knobs = field(default_factory=dict)
    further: Mapping[str, Knobs] = field(default_factory=dict)


SHORT = {"max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""Answers of the arena, sampled as they come."""
EPISODES = {**SHORT, "max_tokens": 6, "max_turns": 10}
"""Episodes of worlds doors and calculator."""
PLAIN = {"schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "lora_rank": 0}
"""All weights, nothing that a paper's optimizer has beside them."""
ADAM = {"lr": 1e-3, "betas": (0.9, 0.95), **PLAIN}
UNSURE = "arena:tutor-unsure"
"""The student of studies in world tutor: it has begun to learn what that of the world itself learns at once, after
eighty steps in some seeds and not in others."""
FAST, SLOW = "--steps 24 --eval-every 2 --eval-samples 1", "--steps 40 --eval-every 4 --eval-samples 1"
"""Words for the area under its curve, which ends near 1: of losses on whole distributions; of those on sampled tokens,
on part of the rows, or with a reward."""
FEW, SOME = "--prompts 8", "--prompts 16"
"""Answers of a step, for losses of either kind. With the presets' 64 tip and sdpo have taught this student after two
steps what there is to learn (docs/arena.md), and little is left to differ by. Of few the noise counts, and too high a
rate undoes what it taught."""
MUTE = {"student_thinking": None}
"""The arena's models have no thinking flag."""


def laptop_of(kind: type[Method]) -> Laptop:
    """The settings of one of our own methods, or of that which a class outside varies; of any other class, and of one
    that has a preset "arena" of its own, that preset, on world table."""
    own = next((base for base in kind.__mro__ if base in METHODS.values()), None)
    method = Laptop() if own is None else kept(own)
    if kind not in METHODS.values() and ARENA in kind.presets:
        return Laptop(method.world, kind.presets[ARENA])
    return method


def kept(method: type[Method]) -> Laptop:
    """``LAPTOP`` of the method's file; the defaults of a method that has none."""
    found: Laptop = getattr(beside(method), "LAPTOP", Laptop())
    return found


def beside(method: type[Method]) -> ModuleType | None:
    """The file of this folder that is called as the method's (None: there is none)."""
    name = f"{__package__}.{method.__module__.rpartition('.')[2]}"
    return import_module(name) if find_spec(name) else None


def presets(kind: type[M]) -> dict[str, M]:
    """Every preset by name: the recipe's own, and those for the arena, or of a recipe without tokens for a laptop. The
    first is the paper's."""
    own = {name: preset_of(kind, name) for name in kind.presets}
    laptop = laptop_of(kind)
    name = LAPTOP if issubclass(kind, NetworkRecipe) else ARENA
    arena = {name: laptop.knobs, **laptop.further} if laptop.knobs else {}
    return own | {name: with_knobs(kind(), knobs) for name, knobs in arena.items()}


def preset_named(kind: type[Recipe], preset: str | None = None, *, world: str = "") -> tuple[str, Recipe]:
    """(name, recipe) of a preset; None: in a ``world`` of the arena its preset of that name, else its preset "arena" if
    there is one; elsewhere the paper's.

    UserError naming the nearest if it is unknown.
    """
    known = presets(kind)
    if preset == PAPER and PAPER not in known:
        preset = next(iter(known))
    if preset is None:
        own = world if world in laptop_of(kind).further else ARENA
        preset = own if world and own in known else next(iter(known))
    if preset not in known:
        name = next((n for n, one in METHODS.items() if one is kind), kind.__name__)
        raise UserError(f"recipe {name} has no preset {preset!r}{nearest(preset, known)}")
    return preset, known[preset]


def laptop_preset(kind: type[N], preset: str | None = None) -> tuple[str, N]:
    """(name, recipe) of a preset of a recipe without tokens; None: "laptop" if there is one, else the paper's.

    UserError naming the nearest if it is unknown.
    """
    known = presets(kind)
    name = preset or (LAPTOP if LAPTOP in known else next(iter(known)))
    if name not in known:
        raise UserError(f"recipe {kind.name or kind.__name__} has no preset {name!r}{nearest(name, known)}")
    return name, known[name]
