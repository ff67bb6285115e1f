"""Labelled images or signals of a learner's own splits, as tensors on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.checks import require
from selfteach.task.arrays import Rows, load_arrays


@dataclass(frozen=True)
class Labelled:
    """``x`` [n, c, h, w] in float32; ``y`` [n]."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.x)

    def on(self, device: torch.device) -> Labelled:
        return Labelled(self.x.to(device), self.y.to(device))

    def __getitem__(self, rows: Int[Tensor, " m"] | slice) -> Labelled:
        return Labelled(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Splits:
    """``valid`` is to choose by, ``test`` to report; none of the three is empty."""

    train: Labelled
    valid: Labelled
    test: Labelled
    classes: int

    def on(self, device: torch.device) -> Splits:
        return Splits(self.train.on(device), self.valid.on(device), self.test.on(device), self.classes)


def labelled(data: str, seed: int, *, standardized: bool = True) -> Splits:
    """The data of that name or file (``task.arrays``): as they are, or with the training split's numbers of mean 0 and
    deviation 1 (``standardized``); a signal [n, c, l] is an image of height 1. UserError for numbers in the place of
    labels, inputs of another shape or all alike, or an empty split."""
    found = load_arrays(data, seed)
    require(
        found.classes > 1,
        f"data {data} has no labels to tell apart: give y as whole numbers from 0, two or more",
    )
    shape = found.train.x.shape[1:]
    require(
        len(shape) in (2, 3) and min(shape) > 0,
        f"data {data} has inputs of shape {list(shape)}: give x as images [n, channels, height, width] or signals "
        "[n, channels, length]",
    )
    for split, rows in (("choose by", found.valid), ("report", found.test)):
        require(len(rows) > 0, f"data {data} has no rows held out to {split}: give more")
    mean, deviation = found.train.x.mean(), found.train.x.std()
    require(
        deviation > 0 or not standardized, f"data {data} holds one number throughout: give inputs that differ"
    )

    def tensors(rows: Rows) -> Labelled:
        x = torch.from_numpy((rows.x - mean) / deviation if standardized else rows.x).float()
        return Labelled(x if x.ndim == 4 else x.unsqueeze(2), torch.from_numpy(rows.y))

    return Splits(tensors(found.train), tensors(found.valid), tensors(found.test), found.classes)
