"""The methods, one file each. ``REGISTRY`` names them all: adding a method adds one line."""

from __future__ import annotations

from importlib import import_module

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, with_knobs

REGISTRY = {
    "opsd": "r01_opsd.OPSD",
    "pw-opsd": "r02_pw_opsd.PWOPSD",
    "trace": "r04_trace.TRACE",
    "atesd": "r06_atesd.ATESD",
    "sd-zero": "r10_sd_zero.SDZero",
    "mixsd": "r11_mixsd.MixSD",
    "srpo": "r15_srpo.SRPO",
    "avsd": "r19_avsd.AVSD",
    "cepo": "r22_cepo.CEPO",
    "sdpo": "r28_sdpo.SDPO",
    "vopd": "r32_vopd.VOPD",
    "exopd": "r33_exopd.ExOPD",
    "scope": "r37_scope.SCOPE",
    "lightning-opd": "r41_lightning_opd.LightningOPD",
    "grpo": "grpo.GRPO",
    "sft": "sft.SFT",
    "gkd": "gkd.GKD",
}


def _recipe(place: str) -> type[Recipe]:
    module, kind = place.split(".")
    found: type[Recipe] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found


RECIPES: dict[str, type[Recipe]] = {name: _recipe(place) for name, place in REGISTRY.items()}


def preset_of(kind: type[Recipe], preset: str | None = None) -> Recipe:
    """A recipe at one of its own presets (None: its first, the paper's). UserError naming the nearest if unknown."""
    presets = kind.presets
    chosen = next(iter(presets)) if preset is None else preset
    if chosen not in presets:
        raise UserError(f"recipe {kind.__name__} has no preset {chosen!r}{nearest(chosen, presets)}")
    return with_knobs(kind(), presets[chosen])


def recipe_named(name: str, preset: str | None = None) -> Recipe:
    """The recipe of this name at a preset of its own. UserError with the nearest names if unknown."""
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}{nearest(name, RECIPES)}")
    return preset_of(RECIPES[name], preset)


__all__ = ["RECIPES", "REGISTRY", "Recipe", "knobs", "preset_of", "recipe_named", "with_knobs"]
