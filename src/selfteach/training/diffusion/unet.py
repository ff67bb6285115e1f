"""A velocity network of images: diffusers' UNet, built from sizes."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.training.diffusion.network import VelocityNetwork, embedding, waves
from selfteach.training.randomness import seeded

LEVELS = 3
"""At most; each level halves the sides of the one before it."""
MOST_CHANNELS = 4
"""Of images as they are usual: of more, and a width of 1 or 3, the axes stand in another order."""
THOUSAND = 1000.0
"""diffusers' UNet expects times of 0 … 1000."""


class VelocityUNet(VelocityNetwork):
    """diffusers' ``UNet2DModel`` with attention at its lowest level, on images that are laid flat outside. Label, and
    in a network of two times the length of the jump, reach it as the embedding of its class. Its initial weights are a
    function of ``seed`` and the sizes. UserError where diffusers is missing or ``shape`` is no image's."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        width: int,
        depth: int,
        *,
        two_time: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(math.prod(shape), classes, two_time=two_time)
        require_image(shape)
        self.shape = shape
        told = 4 * width  # what the UNet makes of the time
        with seeded(seed):
            self.body = unet(shape, width, depth)
            self.jump = embedding(told) if two_time else None
            self.label = nn.Embedding(classes + 1, told)

    def forward(
        self,
        x: Float[Tensor, "n d"],
        t: Float[Tensor, "n"],
        labels: Int[Tensor, "n"],
        s: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n d"]:
        if not len(x):
            return x  # attention cannot do without rows
        told = self.label(labels)
        if self.jump is not None:
            told = told + self.jump(waves(t - (t if s is None else s)))
        images = x.unflatten(1, self.shape)
        found: Tensor = self.body(images, THOUSAND * t, class_labels=told).sample
        return found.flatten(1)


def require_image(shape: tuple[int, ...]) -> None:
    require(
        len(shape) == 3,
        f"architecture unet is of images, [channels, height, width], and the data's rows are {list(shape)}: take mlp",
    )
    require(
        not (shape[0] > MOST_CHANNELS and shape[2] in (1, 3)),
        f"architecture unet is of images, [channels, height, width], and the data's rows are {list(shape)}, channels "
        "last: give x.transpose(0, 3, 1, 2)",
    )
    require(
        find_spec("diffusers") is not None,
        "architecture unet is diffusers', which is not installed: pip install 'selfteach[networks]'",
    )


def unet(shape: tuple[int, ...], width: int, depth: int) -> Any:
    """``depth`` residual blocks a level; ``width`` channels at the first level and twice as many at each next one."""
    from diffusers import UNet2DModel

    channels, *sides = shape
    halvings = min((side & -side).bit_length() - 1 for side in sides)
    levels = min(LEVELS, 1 + halvings)
    return UNet2DModel(  # type: ignore[no-untyped-call]
        sample_size=tuple(sides),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=depth,
        block_out_channels=tuple(width * 2**level for level in range(levels)),
        down_block_types=(*["DownBlock2D"] * (levels - 1), "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * (levels - 1)),
        attention_head_dim=math.gcd(width, 8),
        norm_num_groups=math.gcd(width, 32),
        class_embed_type="identity",
    )
