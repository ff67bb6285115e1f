"""All that a recipe without tokens is made of: ``from selfteach.recipes.network_kit import *``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from selfteach.checks import require
from selfteach.objective import flow, transition
from selfteach.objective.advantage import group_mean
from selfteach.objective.adversarial import bradley_terry, gradient_penalty, logistic
from selfteach.objective.aggregate import mean_of_means
from selfteach.recipes.diffusion import DiffusionRecipe, ImageDiffusionRecipe
from selfteach.recipes.embodied import EmbodiedRecipe
from selfteach.recipes.network import NetworkOptimization, NetworkRecipe, Outputs
from selfteach.settings import (
    Few,
    NonNegativeFloat,
    NonNegativeInt,
    NonNegativeRows,
    OpenUnit,
    PositiveFloat,
    PositiveInt,
    PositiveRows,
    PositiveUnit,
    UnitInterval,
    settings,
)

__all__ = [
    "Any",
    "Bool",
    "ClassVar",
    "DiffusionRecipe",
    "EmbodiedRecipe",
    "Few",
    "Float",
    "ImageDiffusionRecipe",
    "Int",
    "Literal",
    "Mapping",
    "NetworkOptimization",
    "NetworkRecipe",
    "NonNegativeFloat",
    "NonNegativeInt",
    "NonNegativeRows",
    "OpenUnit",
    "Outputs",
    "PositiveFloat",
    "PositiveInt",
    "PositiveRows",
    "PositiveUnit",
    "Shaped",
    "Tensor",
    "UnitInterval",
    "bradley_terry",
    "flow",
    "functional",
    "gradient_penalty",
    "group_mean",
    "logistic",
    "mean_of_means",
    "require",
    "settings",
    "torch",
    "transition",
]
