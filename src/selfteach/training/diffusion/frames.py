"""Sequences that are made frame by frame, in a few steps each: the network, its schedules, its rollout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.checks import require
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


@dataclass(frozen=True)
class OfWalks(Source):
    """Walks of several kinds, all as likely, each a label; their frames laid side by side."""

    walks: Sequence[Walk]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.walks[0].frames, 2)

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(self.walks)

    def draw(self, n: int) -> tuple[Float[Tensor, "n d"], Labels]:
        labels = torch.randint(self.classes, (n,))
        return self.draw_of(labels), labels

    def draw_of(self, labels: Labels) -> Float[Tensor, "n d"]:
        found = torch.empty(len(labels), self.dims)
        for label, walk in enumerate(self.walks):
            own = labels == label
            found[own] = walk.sample(int(own.sum())).flatten(1)
        return found

    def held_out(self, label: int, n: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
        return self.walks[label].sample(n, generator).flatten(1)


def require_frames(name: str, source: Source, frames: int) -> None:
    """UserError unless a row of the data is so many frames: in turn along its first axis, where it has several."""
    dims, shape = source.dims, list(source.shape)
    require(
        dims % frames == 0,
        f"data {name} has {dims} entries a row, which are no {frames} frames: give --frames",
    )
    require(
        len(shape) == 1 or source.is_images or shape[0] % frames == 0,
        f"data {name}: a row is {shape}, whose first axis is no {frames} frames: give x of [rows, frames, …]",
    )


class FrameNetwork(nn.Module):
    """v(x_t, t | the frame before, the frame's place): a velocity network whose input has both frames side by side and
    of whose output the first half is read. Before the first frame there are zeros. ``conditions``: how many there are
    of each label that it is told beside the place, all of them as one number (``JointEmbedding``)."""

    def __init__(
        self,
        entries: int,
        frames: int,
        width: int,
        depth: int,
        seed: int,
        conditions: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.entries, self.frames, self.conditions = entries, frames, math.prod(conditions)
        parts = (frames, *conditions) if conditions else ()
        self.body = VelocityMLP(2 * entries, frames, width, depth, seed=seed, parts=parts)

    def forward(
        self,
        x: Float[Tensor, "n e"],
        t: Float[Tensor, "n"],
        place: Int[Tensor, "n"],
        before: Float[Tensor, "n e"],
        labels: Int[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n e"]:
        if (labels is None) != (self.conditions == 1):
            raise ValueError("labels are given to a network that was made with conditions, and to no other")
        told = place if labels is None else place * self.conditions + labels
        found: Tensor = self.body(torch.cat([x, before], 1), t, told)
        return found[:, : self.entries]


Frames = Callable[
    [Float[Tensor, "n e"], Float[Tensor, "n"], Int[Tensor, "n"], Float[Tensor, "n e"]], Float[Tensor, "n e"]
]
"""A ``FrameNetwork``, or one whose labels are given."""


def before_each(frames: Float[Tensor, "n f e"]) -> Float[Tensor, "n f e"]:
    """In the place of each frame the one before it; zeros before the first."""
    return torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], 1)


def times_of(steps: int, schedule: int, shift: float = 1.0) -> Float[Tensor, "k"]:
    """steps + 1 times from 1 to 0: a schedule of ``schedule`` steps, even but for ``shift`` (``time_grid``), from which
    all but ``steps`` are skipped."""
    whole = time_grid(schedule, shift)
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
    network: Frames, noise: Sequence[Float[Tensor, "s n e"]], schedule: int
) -> Float[Tensor, "n f e"]:
    """``in_turn``, a frame of n steps in n of the schedule's."""
    return in_turn(network, noise, [times_of(len(own), schedule) for own in noise])


def in_turn(
    network: Frames, noise: Sequence[Float[Tensor, "s n e"]], grids: Sequence[Float[Tensor, "k"]]
) -> Float[Tensor, "n f e"]:
    """Frames one after the other, each behind the one that the network itself made before it (Self Forcing, arXiv
    2506.08009), along a grid of times of its own. A frame has as many steps as noise; a step takes the clean frame that
    the network sees and noises it anew up to the next time. Gradients reach each frame's last step and nothing before
    it."""
    made: list[Tensor] = []
    before = torch.zeros_like(noise[0][0])
    for place, (own, grid) in enumerate(zip(noise, grids, strict=True)):
        frame = denoised(network, own, grid, place, before)
        made.append(frame)
        before = frame.detach()
    return torch.stack(made, 1)


def denoised(
    network: Frames,
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
