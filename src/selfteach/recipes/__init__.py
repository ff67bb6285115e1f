"""The methods, one file each. ``RECIPES`` is the whole registry: adding a method adds one line."""

from __future__ import annotations

from selfteach.errors import UserError
from selfteach.recipes.base import Recipe, knobs, with_knobs
from selfteach.recipes.checks import nearest
from selfteach.recipes.grpo import GRPO
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.r02_pw_opsd import PWOPSD
from selfteach.recipes.r04_trace import TRACE
from selfteach.recipes.r06_atesd import ATESD
from selfteach.recipes.r10_sd_zero import SDZero
from selfteach.recipes.r11_mixsd import MixSD
from selfteach.recipes.r15_srpo import SRPO
from selfteach.recipes.r19_avsd import AVSD
from selfteach.recipes.r22_cepo import CEPO
from selfteach.recipes.r28_sdpo import SDPO
from selfteach.recipes.r33_exopd import ExOPD
from selfteach.recipes.r37_scope import SCOPE
from selfteach.recipes.r41_lightning_opd import LightningOPD
from selfteach.recipes.sft import SFT

RECIPES: dict[str, type[Recipe]] = {
    "opsd": OPSD,
    "grpo": GRPO,
    "sft": SFT,
    "sdpo": SDPO,
    "srpo": SRPO,
    "cepo": CEPO,
    "pw-opsd": PWOPSD,
    "avsd": AVSD,
    "atesd": ATESD,
    "trace": TRACE,
    "exopd": ExOPD,
    "scope": SCOPE,
    "sd-zero": SDZero,
    "mixsd": MixSD,
    "lightning-opd": LightningOPD,
}


def recipe_named(name: str, preset: str | None = None) -> Recipe:
    """The recipe's preset (None: its first, the paper's). UserError with the nearest names if unknown."""
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}{nearest(name, RECIPES)}")
    presets = RECIPES[name].presets()
    if preset is None:
        return next(iter(presets.values()))
    if preset not in presets:
        raise UserError(f"recipe {name} has no preset {preset!r}{nearest(preset, presets)}")
    return presets[preset]


__all__ = ["GRPO", "OPSD", "RECIPES", "SFT", "Recipe", "knobs", "recipe_named", "with_knobs"]
