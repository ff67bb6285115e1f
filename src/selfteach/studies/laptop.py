"""What a laptop runs: each method's arena world, and the settings at which a 0.34 M-parameter model learns in it.

These are preset "arena" of each method, beside the released settings that the recipes hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.recipes import RECIPES, Recipe, preset_of, with_knobs

ARENA, PAPER = "arena", "paper"
Knobs = Mapping[str, Any]


@dataclass(frozen=True)
class Laptop:
    """``world``: what ``selfteach train NAME`` trains on unless told otherwise; ``knobs``: preset "arena"; ``further``:
    more presets for the arena, by name."""

    world: str = "table"
    knobs: Knobs = field(default_factory=dict)
    further: Mapping[str, Knobs] = field(default_factory=dict)


SHORT = {"max_tokens": 64, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
"""Answers of the arena, sampled as they come."""
PLAIN = {"schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "lora_rank": 0}
"""All weights, nothing that a paper's optimizer has beside them."""
ADAM = {"lr": 1e-3, "betas": (0.9, 0.95), **PLAIN}
MUTE = {"student_thinking": None}
"""The arena's models have no thinking flag."""

OPSD = {
    **SHORT, **ADAM, **MUTE, "teacher_thinking": None, "beta": 1.0, "clip_entry": None, "steps": 300, "prompts": 64,
}  # fmt: skip
SDPO = {
    **SHORT, **ADAM, **MUTE, "feedback": "always", "alpha": 1.0, "student_top_k": 20, "update_rate": 0.01,
    "per_prompt": 2, "steps": 150, "prompts": 32,
}  # fmt: skip

LAPTOP: Mapping[str, Laptop] = {
    "opsd": Laptop("table", OPSD),
    "pw-opsd": Laptop("table", OPSD),
    # The arena's models never begin with a bare answer, and there the probe's NLL falls by 1e-4 nats a step.
    "atesd": Laptop("trail", {**OPSD, "probe_field": "worked", "answer_weight": 0.02}),
    "avsd": Laptop("trail", {**SHORT, **ADAM, **MUTE, "teacher_thinking": None, "steps": 300, "prompts": 64}),
    "trace": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, **MUTE, "key_weight": 0.0, "error_weight": 1.0, "clip_entry": None, "kl_start": 1.0,
            "kl_hold": 20, "sync_every": 50, "per_prompt": 4, "steps": 150, "prompts": 32,
        },
    ),
    "sd-zero": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, **MUTE, "max_tokens": 96, "lr": 5e-4, "steps": 100, "prompts": 64, "warmup": 10,
            "srt_steps": 50, "srt_drafts": 1024, "loss_top_k": None, "mean_over": "sequences",
        },
    ),
    "mixsd": Laptop(
        "facts",
        {
            **SHORT, **ADAM, **MUTE, "lr": 3e-4, "attempts": 100, "stored": 50, "steps": 150, "prompts": 50,
            "warmup": 20,
        },
    ),
    "srpo": Laptop(
        "tutor",
        {**SHORT, **ADAM, **MUTE, "lr": 3e-4, "per_prompt": 8, "update_rate": 0.01, "steps": 150, "prompts": 8},
    ),
    "cepo": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, "lora_alpha": 128, "lr": 2e-4, "mix_steps": 75, "per_prompt": 8, "steps": 150,
            "prompts": 8,
        },
    ),
    "sdpo": Laptop(
        "tutor",
        SDPO,
        {
            "arena-ttt": {
                **SDPO, "sibling": False, "clip_advantage": 5.0, "per_prompt": 16, "prompts": 1, "steps": 172,
            }
        },
    ),
    "vopd": Laptop(
        "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64}
    ),
    "exopd": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "estimator": "full", "steps": 150,
            "prompts": 64,
        },
    ),
    "scope": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, "teacher": "arena:tutor-large", "estimator": "full", "per_prompt": 8, "steps": 150,
            "prompts": 8,
        },
    ),
    "lightning-opd": Laptop(
        "tutor",
        {
            **SHORT, **ADAM, "teacher": "arena:tutor-large", "stored": 1024, "steps": 100, "prompts": 64,
            "sft_steps": 50, "sft_prompts": 512, "sft_batch": 64, "sft_lr": 3e-4, "sft_max_tokens": 64,
            "mean_over": "sequences",
        },
    ),
    "grpo": Laptop(
        "table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.0, "per_prompt": 8, "steps": 300, "prompts": 8}
    ),
    "gkd": Laptop(
        "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "lmbda": 1.0, "steps": 150, "prompts": 64}
    ),
    "sft": Laptop("table", {**PLAIN, "lr": 3e-4, "max_tokens": 64, "steps": 300, "prompts": 64}),
}  # fmt: skip


def laptop_of(kind: type[Recipe]) -> Laptop:
    """The settings of one of our own methods, or of that which a class outside varies; of any other class, and of one
    that has a preset "arena" of its own, that preset, on world table."""
    name = next((n for base in kind.__mro__ for n, known in RECIPES.items() if known is base), None)
    method = LAPTOP.get(name, Laptop()) if name else Laptop()
    if kind not in RECIPES.values() and ARENA in kind.presets:
        return Laptop(method.world, kind.presets[ARENA])
    return method


def presets(kind: type[Recipe]) -> dict[str, Recipe]:
    """Every preset by name: the recipe's own, and those for the arena. The first is the paper's."""
    own = {name: preset_of(kind, name) for name in kind.presets}
    laptop = laptop_of(kind)
    arena = {ARENA: laptop.knobs, **laptop.further} if laptop.knobs else {}
    return own | {name: with_knobs(kind(), knobs) for name, knobs in arena.items()}


def preset_named(kind: type[Recipe], preset: str | None = None, *, arena: bool = False) -> tuple[str, Recipe]:
    """(name, recipe) of a preset; None: in the ``arena`` its preset "arena" if there is one, else the paper's.

    UserError naming the nearest if it is unknown.
    """
    known = presets(kind)
    if preset == PAPER and PAPER not in known:
        preset = next(iter(known))
    if preset is None:
        preset = ARENA if arena and ARENA in known else next(iter(known))
    if preset not in known:
        name = next((n for n, one in RECIPES.items() if one is kind), kind.__name__)
        raise UserError(f"recipe {name} has no preset {preset!r}{nearest(preset, known)}")
    return preset, known[preset]
