"""Transformations of images by which labels are augmented, and random changes that leave labels as they are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from selfteach.checks import require

Transformation = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]
ROTATIONS = {"rotation4": (0, 1, 2, 3), "rotation2": (0, 2)}
"""Quarter turns, counter-clockwise."""
COLORS = {"color6": tuple(permutations(range(3))), "color3": ((0, 1, 2), (1, 2, 0), (2, 0, 1))}
"""Which channel comes first, second, third."""


def transformations(name: str, channels: int, height: int, width: int) -> list[Transformation]:
    """The transformations of that name, the identity first; of two that are joined by "-" every composition, the second
    one varying fastest. UserError for images on which they are none: not square, or without three channels."""
    parts = name.split("-")
    if any(part in ROTATIONS for part in parts):
        require(
            height == width or name == "rotation2",
            f"transformation {name} turns images by 90°, and these have {height} × {width} pixels: take rotation2",
        )
    if any(part in COLORS for part in parts):
        require(
            channels == 3,
            f"transformation {name} permutes three color channels, and these images have {channels}: take rotation4",
        )
    found: list[Transformation] = [lambda images: images]
    for part in parts:
        found = [composed(first, then) for first in found for then in of(part)]
    return found


def of(part: str) -> list[Transformation]:
    if part in ROTATIONS:
        return [turning(quarters) for quarters in ROTATIONS[part]]
    return [permuting(order) for order in COLORS[part]]


def turning(quarters: int) -> Transformation:
    return lambda images: images.rot90(quarters, (2, 3))


def permuting(order: tuple[int, ...]) -> Transformation:
    return lambda images: images[:, list(order)]


def composed(first: Transformation, then: Transformation) -> Transformation:
    return lambda images: then(first(images))


def views_of(images: Float[Tensor, "n c h w"], by: list[Transformation]) -> Float[Tensor, "n M c h w"]:
    """Every image under every transformation."""
    return torch.stack([one(images) for one in by], 1)


def jittered(images: Float[Tensor, "n c h w"], padding: int, flip: bool) -> Float[Tensor, "n c h w"]:
    """Each image shifted by −``padding`` … ``padding`` pixels either way, zeros coming in, and mirrored left to right
    with probability 1/2 if ``flip``: drawn from torch's global generator on the CPU."""
    n, _, h, w = images.shape
    if padding:
        padded = functional.pad(images, (padding,) * 4)
        down, right = torch.randint(2 * padding + 1, (2, n))
        rows = (down[:, None] + torch.arange(h))[:, None, :, None]
        columns = (right[:, None] + torch.arange(w))[:, None, None, :]
        which = torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[None, :, None, None]
        images = padded[(*which, rows, columns)]
    if flip:
        images = torch.where((torch.rand(n) < 0.5)[:, None, None, None], images.flip(3), images)
    return images
