"""What all recipes of diffusion say of their data, their velocity network, and what it is taught first."""

from __future__ import annotations

from abc import ABC
from typing import Literal

from selfteach.checks import require
from selfteach.recipes.network import NetworkRecipe
from selfteach.settings import (
    Few,
    NonNegativeInt,
    PositiveFloat,
    PositiveRows,
    UnitInterval,
    settings,
)


@settings
class DiffusionRecipe(NetworkRecipe, ABC):
    """A method that trains a velocity field v(x_t, t, label) of straight paths x_t = (1 − t) x₀ + t ε (t = 0 data).

    It begins with a stage ``pretrain`` of plain flow matching on the data. Sizes are a laptop's in all of them.
    """

    data: str = "ring"
    """A world of the plane (ring, opposite, checkerboard), digits, glyphs, or FILE.npz with arrays x and y (labels)."""
    width: PositiveRows = 64
    """Units of each hidden layer (of a UNet the channels of its first level)."""
    depth: Few = 3
    """Hidden layers (of a UNet the residual blocks of a level)."""
    label_dropout: UnitInterval = 0.0
    """Share of the pretraining's examples whose label is hidden, for guidance."""
    pretrain_steps: NonNegativeInt = 1500
    """Batches of flow matching before the method's own (0: none)."""
    pretrain_batch_size: PositiveRows = 256
    """Their examples."""
    pretrain_lr: PositiveFloat = 2e-3
    """Their learning rate (adam, a cosine to 0)."""
    sampling_steps: Few = 10
    """Denoising steps of the sampler whose samples the headline judges."""
    step_counts: tuple[Few, ...] = (1, 2, 4, 8)
    """Further numbers of denoising steps to sample with when it is evaluated."""
    eval_samples: PositiveRows = 500
    """Held-out points of each class, and samples that are compared with them."""

    def __post_init__(self) -> None:
        require(self.eval_samples >= 2, f"eval_samples must be 2 or more, got {self.eval_samples}")


@settings
class ImageDiffusionRecipe(DiffusionRecipe, ABC):
    """One whose examples may be images."""

    architecture: Literal["mlp", "unet"] = "mlp"
    """mlp: linear layers on rows laid flat; unet: diffusers' UNet, of images."""
