"""Who trains a recipe without tokens, by the name that the recipe gives."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, cast

from selfteach.checks import nearest, require
from selfteach.importing import is_reference, load_object
from selfteach.recipes import NetworkRecipe
from selfteach.training.network_config import NetworkConfig
from selfteach.training.network_learner import NetworkLearner
from selfteach.training.reduce import processes

LEARNERS: Mapping[str, str] = {
    "afd": "selfteach.training.diffusion.afd:AFDLearner",
    "asd": "selfteach.training.diffusion.asd:ASDLearner",
    "darts": "selfteach.training.vision.darts:DartsLearner",
    "diffusionopd": "selfteach.training.diffusion.opd:DiffusionOPDLearner",
    "livetalk": "selfteach.training.diffusion.livetalk:LiveTalkLearner",
    "masked": "selfteach.training.masked.learner:MaskedLearner",
    "random-teacher": "selfteach.training.vision.random_teacher:RandomTeacherLearner",
    "recursion": "selfteach.training.classic.recursion:RecursionLearner",
    "ridge": "selfteach.training.classic.ridge:RidgeLearner",
    "rpd": "selfteach.training.embodied.rpd:RPDLearner",
    "rti-dp": "selfteach.training.embodied.rti_dp:RTIDPLearner",
    "self-e": "selfteach.training.diffusion.self_e:SelfELearner",
    "vla-opd": "selfteach.training.embodied.vla_opd:VLAOPDLearner",
    "vision": "selfteach.training.vision.classifier:VisionLearner",
}
"""Name → module and class, loaded when it is asked for: each needs packages of its own."""


NEEDS: Mapping[str, tuple[str, ...]] = {
    "rpd": ("gymnasium", "stable_baselines3"),
    "rti-dp": ("gymnasium", "diffusers"),
    "vla-opd": ("gymnasium",),
}
"""What the extra "embodied" brings and a learner's module imports as it is loaded."""


def learner_kind(recipe: NetworkRecipe) -> type[NetworkLearner[Any]]:
    """The class of the learner that trains a recipe. UserError where there is none."""
    name = recipe.learner
    require(
        name in LEARNERS or is_reference(name),
        f"recipe {type(recipe).__name__} is trained by {name!r}, which is no learner{nearest(name, LEARNERS)}",
    )
    for package in NEEDS.get(name, ()):
        require(
            find_spec(package) is not None,
            f"recipe {recipe.name} needs the package {package}, which is not installed: pip install "
            "'selfteach[embodied]'",
        )
    found = load_object(LEARNERS.get(name, name))
    require(
        isinstance(found, type) and issubclass(found, NetworkLearner),
        f"{name} is no learner: give a subclass of selfteach.training.network_learner.NetworkLearner",
    )
    return cast(type[NetworkLearner[Any]], found)


def network_learner(config: NetworkConfig) -> NetworkLearner[Any]:
    """The learner of a run at its beginning. UserError where its data or a package is missing, and where several
    processes were launched: its losses are of its own batch, and gradients of processes are added."""
    require(
        processes()[1] == 1,
        f"recipe {config.recipe_name} is trained by one process: start it without torchrun or accelerate launch",
    )
    return learner_kind(config.recipe)(config.recipe, config.settings)
