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
from selfteach.task.worlds2d import WORLDS, World, world_named

Labels = Int[Tensor, "n"]


class Source(ABC):
    """Examples with labels 0 … ``classes`` − 1, as float32 on the CPU."""

    dims: int
    classes: int

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
    dims: int = 2

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
            arrays.classes > 0, f"data {name} has numbers as targets: give labels, y of whole numbers from 0"
        )
        self.x, self.y = flat(arrays.train)
        self.test = flat(arrays.test)
        self.dims, self.classes = self.x.shape[1], arrays.classes
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


def flat(rows: Rows) -> tuple[Float[Tensor, "n d"], Labels]:
    x = rows.x.reshape(len(rows.x), math.prod(rows.x.shape[1:]))
    return torch.from_numpy(x).float(), torch.from_numpy(rows.y)


def source_named(name: str, seed: int, others: Sequence[str] = ()) -> Source:
    """A world's name, a name of ``task.arrays``, or FILE.npz. UserError where there is none, or it has no labels;
    ``others``: what else could be meant."""
    if name in WORLDS or not (name.endswith(".npz") or name == "digits"):
        return OfWorld(world_named(name, others))
    return OfRows(name, load_arrays(name, seed))
