"""Toy videos: points that walk around a circle, one a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.task.worlds2d import Mixture, ring


@dataclass(frozen=True)
class Walk:
    """x_1 is of ``first``, x_{k+1} = R x_k + ``std`` ε, R a turn by ``angle`` (radians): where a walk begins is one of
    eight places, and where it goes next nearly sure. R carries the modes of ``first`` to each other, so that every
    frame's distribution is that of ``first`` but for its width."""

    frames: int = 8
    first: Mixture = field(default_factory=ring)
    angle: float = math.pi / 4
    std: float = 0.1

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n f 2"]:
        """Walks; without a ``generator`` by torch's global one."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        turned = torch.tensor([[c, s], [-s, c]])
        walk = [self.first.sample(torch.zeros(n, dtype=torch.long), generator)]
        while len(walk) < self.frames:
            walk.append(walk[-1] @ turned + self.std * torch.randn(n, 2, generator=generator))
        return torch.stack(walk, 1)


def speeds(frames: int, kinds: int = 4, slowest: float = math.pi / 8) -> tuple[Walk, ...]:
    """Walks that differ in how far they turn at a frame: 1, 2 … ``kinds`` times ``slowest``. Where they begin says
    nothing of it."""
    return tuple(Walk(frames, angle=slowest * k) for k in range(1, kinds + 1))
