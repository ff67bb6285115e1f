"""Distributions in the plane, given a class, whose density and score are exact, also after noise was added.

Noise is that of straight paths, x_t = (1 − t) x₀ + t ε with ε ~ N(0, I): t = 0 is the data, t = 1 noise alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.checks import nearest, require

Labels = Int[Tensor, "n"]


class World(ABC):
    """p(x | class) in the plane."""

    @property
    @abstractmethod
    def classes(self) -> int: ...

    @abstractmethod
    def sample(self, labels: Labels, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """One point for each label; without a ``generator`` by torch's global one."""

    @abstractmethod
    def log_densities(self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"]) -> Float[Tensor, "n C"]:
        """log p_t(x | class) of every class, in nats."""

    def log_density(
        self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"], labels: Labels | None = None
    ) -> Float[Tensor, "n"]:
        """log p_t(x | label), in nats; without ``labels`` that of all classes, equally likely."""
        each = self.log_densities(x, t)
        if labels is None:
            return each.logsumexp(1) - math.log(self.classes)
        return each.gather(1, labels[:, None])[:, 0]

    def score(
        self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"], labels: Labels | None = None
    ) -> Float[Tensor, "n 2"]:
        """∇ log p_t(x | label), of the same."""
        at = x.detach().requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self.log_density(at, t, labels).sum(), at)
        return found

    def posterior_mean(
        self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"], labels: Labels | None = None
    ) -> Float[Tensor, "n 2"]:
        """E[x₀ | x_t = x, label] = (x + t² score)/(1 − t), by Tweedie's formula. t < 1."""
        at = t[:, None]
        return (x + at.square() * self.score(x, t, labels)) / (1 - at)


@dataclass(frozen=True)
class Mixture(World):
    """Round Gaussians: ``means`` [C, M, 2], ``weights`` [C, M] (each class's add up to 1), and their common ``std``."""

    means: Float[Tensor, "C M 2"]
    weights: Float[Tensor, "C M"]
    std: float

    @property
    def classes(self) -> int:
        return len(self.means)

    def sample(self, labels: Labels, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        modes = torch.multinomial(self.weights[labels], 1, replacement=True, generator=generator)[:, 0]
        noise = torch.randn(len(labels), 2, generator=generator, dtype=self.means.dtype)
        return self.means[labels, modes] + self.std * noise

    def log_densities(self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"]) -> Float[Tensor, "n C"]:
        at = t[:, None, None]
        variance = ((1 - at) * self.std).square() + at.square()
        apart = (x[:, None, None] - (1 - at[..., None]) * self.means).square().sum(-1)
        each = self.weights.log() - apart / (2 * variance) - (2 * math.pi * variance).log()
        return each.logsumexp(2)


@dataclass(frozen=True)
class Squares(World):
    """Even mass on equal squares of one class: ``corners`` [K, 2] are their lower left ends, ``side`` their length."""

    corners: Float[Tensor, "K 2"]
    side: float

    @property
    def classes(self) -> int:
        return 1

    def sample(self, labels: Labels, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        which = torch.randint(len(self.corners), (len(labels),), generator=generator)
        within = torch.rand(len(labels), 2, generator=generator, dtype=self.corners.dtype)
        return self.corners[which] + self.side * within

    def log_densities(self, x: Float[Tensor, "n 2"], t: Float[Tensor, "n"]) -> Float[Tensor, "n C"]:
        """A square smeared by noise is a product of differences of error functions. −inf outside of it at t = 0."""
        kept = (1 - t)[:, None, None]
        low = kept * self.corners
        high = low + kept * self.side
        if bool((t == 0).all()):
            inside = ((x[:, None] >= low) & (x[:, None] < high)).all(-1).any(-1)
            return torch.where(inside, -math.log(len(self.corners) * self.side**2), -math.inf)[:, None]
        scale = t[:, None, None] * math.sqrt(2)
        mass = torch.erf((x[:, None] - low) / scale) - torch.erf((x[:, None] - high) / scale)
        each = mass / (2 * kept * self.side)
        return each.prod(-1).mean(-1).log()[:, None]


def ring(modes: int = 8, radius: float = 2.0, std: float = 0.15) -> Mixture:
    """One class: equal Gaussians on a circle."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture(means[None], torch.full((1, modes), 1 / modes), std)


def opposite(classes: int = 4, radius: float = 2.0, std: float = 0.15) -> Mixture:
    """Each class two Gaussians that lie opposite on a circle: no class's mean says anything of it."""
    angle = math.pi * torch.arange(classes) / classes
    one = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture(torch.stack([one, -one], 1), torch.full((classes, 2), 0.5), std)


def opposite_biased(classes: int = 4) -> Mixture:
    """``opposite`` as one who learned from poor data knows it: closer in, too wide, the first of two seen too often."""
    near = opposite(classes, radius=1.4, std=0.3)
    return Mixture(near.means, torch.tensor([0.85, 0.15]).expand(classes, 2), near.std)


def checkerboard(cells: int = 4, side: float = 1.0) -> Squares:
    """One class: every second square of a board around the origin."""
    places = [(i, j) for i in range(cells) for j in range(cells) if (i + j) % 2 == 0]
    return Squares(side * (torch.tensor(places, dtype=torch.float32) - cells / 2), side)


WORLDS: Mapping[str, Callable[[], World]] = {
    "ring": ring,
    "opposite": opposite,
    "opposite-biased": opposite_biased,
    "checkerboard": checkerboard,
}
"""By name: eight modes on a circle; four classes of two opposite modes; a board."""


def world_named(name: str, others: Sequence[str] = ()) -> World:
    """UserError with the nearest name, of the worlds and of ``others`` that could be meant, where it is unknown."""
    near = nearest(name, [*others, *WORLDS])
    require(
        name in WORLDS,
        f"no world of the plane is called {name!r}{near}; or digits, glyphs, or FILE.npz with x and y",
    )
    return WORLDS[name]()
