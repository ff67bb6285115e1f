"""Sequences that are made frame by frame, in a few steps each: the network, its schedules, its rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.objective.transition import cps
from selfteach.task.walk2d import Walk
from selfteach.training.diffusion.data import Labels, Source
from selfteach.training.diffusion.network import VelocityMLP
from selfteach.training.diffusion.sampling import jumps, time_grid


@dataclass(frozen=True)
class OfWalk(Source):
    """Walks, their frames laid side by side."""

    walk: Walk
    classes: int = 1

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.walk.frames, 2)

    def draw(self, n: int) -> tuple[Float[Tensor, "n d"], Labels]:
        return self.walk.sample(n).flatten(1), torch.zeros(n, dtype=torch.long)

    def draw_of(self, labels: Labels) -> Float[Tensor, "n d"]:
        return self.walk.sample(len(labels)).flatten(1)

    def held_out(self, label: int, n: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        return self.walk.sample(n, generator).flatten(1)


class FrameNetwork(nn.Module):
    """v(x_t, t | the frame before, the frame's place): a velocity network whose input has both frames side by side and
    of whose output the first half is read. Before the first frame there are zeros."""

    def __init__(self, entries: int, frames: int, width: int, depth: int, seed: int) -> None:
        super().__init__()
        self.entries, self.frames = entries, frames
        self.body = VelocityMLP(2 * entries, frames, width, depth, seed=seed)

    def forward(
        self,
        x: Float[Tensor, "n e"],
        t: Float[Tensor, "n"],
        place: Int[Tensor, "n"],
        before: Float[Tensor, "n e"],
    ) -> Float[Tensor, "n e"]:
        found: Tensor = self.body(torch.cat([x, before], 1), t, place)
        return found[:, : self.entries]


def before_each(frames: Float[Tensor, "n f e"]) -> Float[Tensor, "n f e"]:
    """In the place of each frame the one before it; zeros before the first."""
    return torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], 1)


def times_of(steps: int, schedule: int) -> Float[Tensor, "k"]:
    """steps + 1 times from 1 to 0: a schedule of ``schedule`` even steps, from which all but ``steps`` are skipped."""
    whole = time_grid(schedule)
    return torch.cat([whole[[k * schedule // steps for k in range(steps)]], whole[-1:]])


def budgets(frames: int, steps: int, first: int | None = None) -> list[int]:
    """Steps of each frame: ``first`` of the first one (None: as many as of the others)."""
    return [steps if first is None else first, *[steps] * (frames - 1)]


def noise_for(
    each: Sequence[int], rows: int, entries: int, generator: torch.Generator | None = None
) -> list[Float[Tensor, "s n e"]]:
    """What ``roll_out`` denoises: for every frame the noise that each of its steps begins with; on the CPU."""
    return [torch.randn(steps, rows, entries, generator=generator) for steps in each]


def roll_out(
    network: FrameNetwork, noise: Sequence[Float[Tensor, "s n e"]], schedule: int
) -> Float[Tensor, "n f e"]:
    """Frames one after the other, each behind the one that the network itself made before it (Self Forcing, arXiv
    2506.08009). A frame has as many steps as noise; a step takes the clean frame that the network sees and noises it
    anew up to the next time. Gradients reach each frame's last step and nothing before it."""
    made: list[Tensor] = []
    before = torch.zeros_like(noise[0][0])
    for place, own in enumerate(noise):
        frame = denoised(network, own, times_of(len(own), schedule), place, before)
        made.append(frame)
        before = frame.detach()
    return torch.stack(made, 1)


def denoised(
    network: FrameNetwork,
    noise: Float[Tensor, "s n e"],
    grid: Float[Tensor, "k"],
    place: int,
    before: Float[Tensor, "n e"],
) -> Float[Tensor, "n e"]:
    x, rows = noise[0], len(before)
    places = torch.full((rows,), place, device=x.device)
    for after, (t, s) in enumerate(jumps(grid.to(x.device), rows), start=1):
        last = after == len(noise)
        with torch.set_grad_enabled(torch.is_grad_enabled() and last):
            to = cps(x, network(x, t, places, before), t, s, eta=1.0)
        x = to.mean if last else to.sample(noise[after])
    return x
