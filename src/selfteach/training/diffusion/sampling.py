"""Denoising in a few steps: the grid of times, and the steps along it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.objective.flow import guided
from selfteach.objective.transition import ode
from selfteach.training.diffusion.network import VelocityNetwork


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
    guidance: float = 1.0,
) -> Float[Tensor, "n d"]:
    """The network's velocity of the flow, with classifier-free guidance (1: none, and no second pass)."""
    found: Tensor = network(x, t, labels)
    if guidance == 1:
        return found
    return guided(found, network(x, t, torch.full_like(labels, network.null)), guidance)


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
    guidance: float = 1.0,
) -> Float[Tensor, "n d"]:
    """Denoise ``noise`` along ``grid`` by Euler's steps of the flow."""
    x = noise
    for t, s in jumps(grid.to(noise.device), len(noise)):
        x = ode(x, velocity_at(network, x, t, labels, guidance=guidance), t, s).mean
    return x


def drawn(
    shape: torch.Size | tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Float[Tensor, "n d"]:
    """Standard normal numbers, drawn on the CPU whatever the device, so that a seed means the same everywhere."""
    return torch.randn(shape, generator=generator).to(device)
