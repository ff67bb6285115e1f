"""What diffusion learns to sample: a world of the plane, or rows with labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.checks import require
from selfteach.task.arrays import Arrays, Rows, load_arrays
from selfteach.task.worlds2d import World, world_named

Labels = Int[Tensor, "n"]
LABELED = ("digits", "glyphs", "glyphs-color")
"""Data of ``task.arrays`` that are images with labels."""


class Source(ABC):
    """Examples with labels 0 … ``classes`` − 1, as float32 on the CPU, laid flat. ``shape``: an example's own."""

    shape: tuple[int, ...]
    classes: int

    @property
    def dims(self) -> int:
        """Numbers of an example."""
        return math.prod(self.shape)

    @property
    def is_images(self) -> bool:
        """Whether examples are [channels, height, width], gray or of three colors."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    @property
    def span(self) -> tuple[float, float]:
        """What is black and what is white of images: 0 and 1, or as far beyond as the training examples go."""
        return 0.0, 1.0

    def recognized(self, x: Float[Tensor, "n d"], label: int) -> float | None:
        """Share of ``x`` whose nearest training image is of ``label``; None where examples are no images."""
        return None

    @abstractmethod
    def draw(self, n: int) -> tuple[Float[Tensor, "n d"], Labels]:
        """Training examples and their labels, by torch's global generator."""

    @abstractmethod
    def draw_of(self, labels: Labels) -> Float[Tensor, "n d"]:
        """One training example of each label, by the same."""

    @abstractmethod
    def held_out(self, label: int, n: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        """At most ``n`` examples of a label that are not trained on."""


@dataclass(frozen=True)
class OfWorld(Source):
    """Points of a world, all labels equally likely."""

    world: World
    shape: tuple[int, ...] = (2,)

    @property
    def classes(self) -> int:  # type: ignore[override]
        return self.world.classes

    def draw(self, n: int) -> tuple[Float[Tensor, "n d"], Labels]:
        labels = torch.randint(self.classes, (n,))
        return self.world.sample(labels), labels

    def draw_of(self, labels: Labels) -> Float[Tensor, "n d"]:
        return self.world.sample(labels)

    def held_out(self, label: int, n: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        return self.world.sample(torch.full((n,), label), generator)


class OfRows(Source):
    """Rows laid flat, as they are. UserError where a label has fewer than two rows held out."""

    def __init__(self, name: str, arrays: Arrays) -> None:
        require(
            arrays.classes > 0,
            f"data {name} has numbers as targets: give labels, y of one axis and an integer type, from 0",
        )
        self.x, self.y = flat(arrays.train)
        self.test = flat(arrays.test)
        self.shape, self.classes = arrays.train.x.shape[1:], arrays.classes
        for part, y, least in (("to train on", self.y, 1), ("held out", self.test[1], 2)):
            few = int(y.bincount(minlength=self.classes).min())
            require(
                few >= least,
                f"data {name}: a label has {few} rows {part}, and {least} are needed: give more rows",
            )

    def draw(self, n: int) -> tuple[Float[Tensor, "n d"], Labels]:
        rows = torch.randint(len(self.x), (n,))
        return self.x[rows], self.y[rows]

    def draw_of(self, labels: Labels) -> Float[Tensor, "n d"]:
        counts = self.y.bincount(minlength=self.classes)
        first = counts.cumsum(0) - counts
        place = first[labels] + (torch.rand(len(labels)) * counts[labels]).long()
        return self.x[self.y.argsort(stable=True)[place]]

    def held_out(self, label: int, n: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        return self.test[0][self.test[1] == label][:n]

    @property
    def span(self) -> tuple[float, float]:
        return min(0.0, float(self.x.min())), max(1.0, float(self.x.max()))

    def recognized(self, x: Float[Tensor, "n d"], label: int) -> float | None:
        if not self.is_images:
            return None
        nearest = torch.cdist(x, self.x).argmin(1)
        return float((self.y[nearest] == label).float().mean())


def flat(rows: Rows) -> tuple[Float[Tensor, "n d"], Labels]:
    x = rows.x.reshape(len(rows.x), math.prod(rows.x.shape[1:]))
    return torch.from_numpy(x).float(), torch.from_numpy(rows.y)


def source_named(name: str, seed: int, others: Sequence[str] = ()) -> Source:
    """A world's name, a name of ``task.arrays``, or FILE.npz. UserError where there is none, or it has no labels;
    ``others``: what else could be meant."""
    if name.endswith(".npz") or name in LABELED:
        return OfRows(name, load_arrays(name, seed))
    return OfWorld(world_named(name, others))
