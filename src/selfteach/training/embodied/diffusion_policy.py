"""A diffusion policy: chunks of actions, denoised under an observation (arXiv 2303.04137). T actions of a chunk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from selfteach.checks import require
from selfteach.training.diffusion.network import embedding, waves
from selfteach.training.embodied.rollout import Transitions
from selfteach.training.randomness import seeded

Predict = Callable[[Float[Tensor, "n T a"], int], Float[Tensor, "n T a"]]
"""(A_k, k) → the noise in A_k."""


class Chunks(NamedTuple):
    """What a diffusion policy is cloned from: every step's observation, and the actions from there on."""

    observation: Float[Tensor, "n o"]
    action: Float[Tensor, "n T a"]


def chunks(played: Transitions, horizon: int) -> Chunks:
    """Of every step that was taken, with each episode's last action repeated behind its end."""
    times, envs = played.alive.nonzero(as_tuple=True)
    last = played.alive.sum(0) - 1
    rows = torch.minimum(times[:, None] + torch.arange(horizon), last[envs][:, None])
    return Chunks(played.kept(played.observation).flatten(1).float(), played.action[rows, envs[:, None]])


class Range(nn.Module):
    """Values ↔ [−1, 1], by the least and the largest of ``values`` in each channel; one that is constant becomes 0.

    ``discrete``: channels that are −1 or 1, by sign (0 is −1), and become ∓ ``size``.
    """

    middle: Float[Tensor, "c"]
    spread: Float[Tensor, "c"]
    discrete: Bool[Tensor, "c"]

    def __init__(
        self, values: Float[Tensor, "n c"], discrete: Collection[int] = (), size: float = 1.0
    ) -> None:
        super().__init__()
        least, largest = values.amin(0), values.amax(0)
        flat = largest - least < 1e-4
        marked = torch.zeros(values.shape[1], dtype=torch.bool)
        marked[list(discrete)] = True
        self.size = size
        self.register_buffer("middle", (least + largest) / 2)
        self.register_buffer("spread", torch.where(flat, 1.0, (largest - least) / 2))
        self.register_buffer("discrete", marked)

    def inward(self, values: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return self.quantized((values - self.middle) / self.spread, values, self.size)

    def outward(self, values: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return self.quantized(values * self.spread + self.middle, values, 1.0)

    def quantized(
        self, values: Float[Tensor, "*n c"], signs: Float[Tensor, "*n c"], size: float
    ) -> Float[Tensor, "*n c"]:
        """``values``, with ± ``size`` by the sign of ``signs`` in the discrete channels."""
        return torch.where(self.discrete, torch.where(signs > 0, size, -size), values)


class NoiseMLP(nn.Module):
    """ε_θ(A, k, O): residual linear layers over a chunk laid flat, to which embeddings of time and observation are
    added. Its initial weights are a function of ``seed`` and the sizes."""

    def __init__(
        self, observed: int, horizon: int, acted: int, width: int, depth: int, *, steps: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.steps = steps
        with seeded(seed):
            self.begin = nn.Linear(horizon * acted, width)
            self.time = embedding(width)
            self.observation = nn.Sequential(nn.Linear(observed, width), nn.SiLU(), nn.Linear(width, width))
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.end = nn.Linear(width, horizon * acted)

    def forward(
        self, noisy: Float[Tensor, "n T a"], k: Int[Tensor, "n"], observation: Float[Tensor, "n o"]
    ) -> Float[Tensor, "n T a"]:
        told = self.time(waves(k / self.steps)) + self.observation(observation)
        hidden = self.begin(noisy.flatten(1))
        for layer in self.layers:
            hidden = hidden + functional.silu(layer(functional.silu(hidden + told)))
        found: Tensor = self.end(hidden)
        return found.view_as(noisy)


class DiffusionPolicy(nn.Module):
    """The network between normalized observations and normalized chunks; its ranges are part of its weights."""

    def __init__(self, network: NoiseMLP, observed: Range, acted: Range, horizon: int) -> None:
        super().__init__()
        self.network, self.observed, self.acted, self.horizon = network, observed, acted, horizon

    def forward(
        self, noisy: Float[Tensor, "n T a"], k: Int[Tensor, "n"], observation: Float[Tensor, "n o"]
    ) -> Float[Tensor, "n T a"]:
        """The noise in a normalized chunk; the observation is as the environment gives it."""
        found: Tensor = self.network(noisy, k, self.observed.inward(observation))
        return found

    def under(self, observation: Float[Tensor, "n o"]) -> Predict:
        """What ``denoised`` asks."""

        def predict(noisy: Float[Tensor, "n T a"], k: int) -> Float[Tensor, "n T a"]:
            found: Tensor = self(noisy, torch.full((len(noisy),), k, device=noisy.device), observation)
            return found

        return predict


def scheduler_of(steps: int, *, clip_sample: bool = True) -> Any:
    """diffusers' DDPM scheduler as diffusion policies take it: squared cosine schedule, noise predicted, variance of
    the posterior. UserError where diffusers is missing."""
    require(
        find_spec("diffusers") is not None,
        "a diffusion policy needs the package diffusers, which is not installed: pip install 'selfteach[embodied]'",
    )
    return import_module("diffusers").DDPMScheduler(
        num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2", clip_sample=clip_sample
    )


@torch.no_grad()
def denoised(
    predict: Predict,
    scheduler: Any,
    start: Float[Tensor, "n T a"],
    timesteps: Iterable[int],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n T a"]:
    """``start`` after one step of the scheduler at each k of ``timesteps``. A step at k goes to k − 1, whatever the
    next one of the list is; all but that of 0 draw noise."""
    found = start
    for k in timesteps:
        found = scheduler.step(predict(found, k), k, found, generator=generator).prev_sample
    return found


def moved_on(chunk: Float[Tensor, "n T a"], executed: int = 1) -> Float[Tensor, "n T a"]:
    """The chunk without its first ``executed`` actions, its last one repeated in their place: shift and repeat."""
    return torch.cat([chunk[:, executed:], chunk[:, -1:].expand(-1, executed, -1)], 1)


def clipped_guess(
    chunk: Float[Tensor, "n T a"], discrete: Bool[Tensor, "a"], factor: float
) -> Float[Tensor, "n T a"]:
    """With ± 1/``factor`` by sign (0 is negative) in the discrete channels: near enough to 0 to change sides."""
    return torch.where(discrete, torch.where(chunk > 0, 1 / factor, -1 / factor), chunk)


def gain(
    predict: Predict,
    scheduler: Any,
    guess: Float[Tensor, "n T a"],
    timesteps: Iterable[int],
    seed: int,
    size: float = 1e-2,
) -> Float[Tensor, "n"]:
    """|Δ out| / |Δ in| of the steps ``timesteps`` where ``guess`` is moved by ``size`` in a random direction, the same
    noise drawn in both: below 1 they contract."""
    steps = list(timesteps)
    direction = torch.randn(guess.shape, generator=torch.Generator().manual_seed(seed), dtype=guess.dtype)
    moved = guess + size * functional.normalize(direction.flatten(1)).view_as(guess).to(guess.device)
    one, other = (
        denoised(predict, scheduler, start, steps, torch.Generator().manual_seed(seed))
        for start in (guess, moved)
    )
    found: Tensor = (one - other).flatten(1).norm(dim=1) / (guess - moved).flatten(1).norm(dim=1)
    return found
