"""Velocity networks: what all of them are told, and a small one of linear layers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from selfteach.training.randomness import seeded

FREQUENCIES = 8
"""Of the time's sines and cosines: π/2, π, 2π …: the slowest tells all times of [0, 1] apart."""


class VelocityNetwork(nn.Module, ABC):
    """v(x, t, label), or v(x, t, s, label) if ``two_time``. Label ``null`` (= ``classes``) stands for none."""

    def __init__(self, dims: int, classes: int, *, two_time: bool = False) -> None:
        super().__init__()
        self.dims, self.null, self.two_time = dims, classes, two_time

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "n d"],
        t: Float[Tensor, "n"],
        labels: Int[Tensor, "n"],
        s: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n d"]:
        """``s``: the time that the jump from ``t`` ends at (None: t itself, the velocity of the flow). A network of one
        time does not see it."""


class VelocityMLP(VelocityNetwork):
    """A multilayer perceptron of residual layers, to which times and label are added as embeddings. Its initial weights
    are a function of ``seed`` and the sizes. ``parts``: a label stands for several, each with an embedding of its own
    (``JointEmbedding``)."""

    def __init__(
        self,
        dims: int,
        classes: int,
        width: int,
        depth: int,
        *,
        two_time: bool = False,
        seed: int = 0,
        parts: Sequence[int] = (),
    ) -> None:
        super().__init__(dims, classes, two_time=two_time)
        with seeded(seed):
            self.begin = nn.Linear(dims, width)
            self.time = embedding(width)
            self.jump = embedding(width) if two_time else None
            self.label = JointEmbedding(parts, width) if parts else nn.Embedding(classes + 1, width)
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.end = nn.Linear(width, dims)

    def forward(
        self,
        x: Float[Tensor, "n d"],
        t: Float[Tensor, "n"],
        labels: Int[Tensor, "n"],
        s: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n d"]:
        found: Tensor = self.end(self.features(x, t, labels, s))
        return found

    def features(
        self,
        x: Float[Tensor, "n d"],
        t: Float[Tensor, "n"],
        labels: Int[Tensor, "n"],
        s: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n width"]:
        """What the last layer reads the velocity off."""
        told = self.time(waves(t)) + self.label(labels)
        if self.jump is not None:
            told = told + self.jump(waves(t - (t if s is None else s)))
        hidden: Tensor = self.begin(x)
        for layer in self.layers:
            hidden = hidden + functional.silu(layer(functional.silu(hidden + told)))
        return hidden


class JointEmbedding(nn.Module):
    """The sum of the embeddings of several labels, ``sizes`` many of each, which one number stands for: (a, b, c) is
    (a · sizes[1] + b) · sizes[2] + c."""

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.parts = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, joint: Int[Tensor, "n"]) -> Float[Tensor, "n width"]:
        found = []
        for size, part in reversed(list(zip(self.sizes, self.parts, strict=True))):
            found.append(part(joint % size))
            joint = joint // size
        return torch.stack(found).sum(0)


def embedding(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))


def waves(t: Float[Tensor, "n"]) -> Float[Tensor, "n f"]:
    """Sines and cosines of a time, at doubling frequencies."""
    rates = math.pi / 2 * 2.0 ** torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype)
    angle = t[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)
