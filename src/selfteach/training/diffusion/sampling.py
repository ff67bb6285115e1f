"""Denoising in a few steps: the grid of times, and the steps along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.objective.flow import guided
from selfteach.objective.transition import Transition, ode
from selfteach.training.diffusion.network import VelocityNetwork

Step = Callable[
    [Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n"], Float[Tensor, "n"]], Transition
]
"""(x_t, velocity, t, s) → the transition to s: a function of ``objective.transition``, its η given."""


def time_grid(steps: int, shift: float = 1.0) -> Float[Tensor, "k"]:
    """steps + 1 times from 1 to 0, evenly spaced and then shifted to shift · t/(1 + (shift − 1) t): what diffusers'
    FlowMatchEulerDiscreteScheduler makes of ``sigmas=linspace(1, 1/steps, steps)``."""
    even = torch.linspace(1, 0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)


def velocity_at(
    network: VelocityNetwork,
    x: Float[Tensor, "n d"],
    t: Float[Tensor, "n"],
    labels: Int[Tensor, "n"],
    *,
    s: Float[Tensor, "n"] | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "n d"]:
    """The network's velocity, with classifier-free guidance (1: none, and no second pass)."""
    found: Tensor = network(x, t, labels, s)
    if guidance == 1:
        return found
    return guided(found, network(x, t, torch.full_like(labels, network.null), s), guidance)


def jumps(grid: Float[Tensor, "k"], rows: int) -> Iterator[tuple[Float[Tensor, "n"], Float[Tensor, "n"]]]:
    """(t, s) of each step along a grid, one number a row."""
    for t, s in pairwise(grid):
        yield t.expand(rows), s.expand(rows)


@torch.no_grad()
def sample(
    network: VelocityNetwork,
    noise: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    grid: Float[Tensor, "k"],
    *,
    step: Step = ode,
    guidance: float = 1.0,
    jump_to: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """Denoise ``noise`` along ``grid``. ``jump_to``: a network of two times is told where the step ends, instead of
    being asked for the velocity of the flow. ``generator``: of the noise that a stochastic ``step`` draws, on the
    CPU."""
    x = noise
    for t, s in jumps(grid.to(noise.device), len(noise)):
        velocity = velocity_at(network, x, t, labels, s=s if jump_to else None, guidance=guidance)
        to = step(x, velocity, t, s)
        x = to.mean if step is ode else to.sample(drawn(x.shape, generator, x.device))
    return x


def drawn(
    shape: torch.Size | tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n d"]:
    """Standard normal numbers, drawn on the CPU whatever the device, so that a seed means the same everywhere."""
    return torch.randn(shape, generator=generator).to(device)
