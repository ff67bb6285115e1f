"""One denoising step as a Gaussian: mean and standard deviation of x_s given x_t, s < t, of the samplers that
reinforcement learning and distillation of diffusion models use, and the divergence of two of equal variance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.flow import along, clean, noise_of


class Transition(NamedTuple):
    """x_s ~ N(mean, std² I); ``std`` is one number a row, 0 where the step is deterministic."""

    mean: Float[Tensor, "n *d"]
    std: Float[Tensor, "n"]

    def sample(self, noise: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """mean + std · noise."""
        return self.mean + along(self.std, self.mean) * noise


def ode(
    x: Float[Tensor, "n *d"],
    velocity: Float[Tensor, "n *d"],
    t: Float[Tensor, "n"],
    s: Float[Tensor, "n"],
) -> Transition:
    """Euler's step of the flow: x + (s − t) v, without noise."""
    return Transition(x + along(s - t, x) * velocity, torch.zeros_like(t))


def flow_sde(
    x: Float[Tensor, "n *d"],
    velocity: Float[Tensor, "n *d"],
    t: Float[Tensor, "n"],
    s: Float[Tensor, "n"],
    eta: float,
    largest: float = 1.0,
) -> Transition:
    """Euler-Maruyama's step of the SDE with the flow's marginals (Flow-GRPO, arXiv 2505.05470):

        g = η √(t/(1 − t)),  mean = x (1 + g²(s − t)/(2t)) + v (1 + g²(1 − t)/(2t)) (s − t),  std = g √(t − s)

    g is taken at no t above ``largest``, since it is infinite at t = 1: samplers take the grid's second time. η = 0 is
    ``ode``.
    """
    g = diffusion(t, eta, largest)
    half = g.square() / (2 * t)
    mean = x * along(1 + half * (s - t), x) + velocity * along((1 + half * (1 - t)) * (s - t), x)
    return Transition(mean, g * (t - s).sqrt())


def diffusion(t: Float[Tensor, "n"], eta: float, largest: float = 1.0) -> Float[Tensor, "n"]:
    """g of ``flow_sde``."""
    at = t.clamp(max=largest)
    return eta * (at / (1 - at)).sqrt()


def cps(
    x: Float[Tensor, "n *d"],
    velocity: Float[Tensor, "n *d"],
    t: Float[Tensor, "n"],
    s: Float[Tensor, "n"],
    eta: float,
) -> Transition:
    """A step that keeps the noise level's coefficients (Flow-CPS, arXiv 2509.05952): of the x₀ and ε of the velocity

        std = s sin(πη/2),  mean = (1 − s) x₀ + √(s² − std²) ε

    η = 0 is ``ode``; η = 1 draws all noise anew. The noise of a step does not shrink with its length, so that samples
    of many steps are narrower than the flow's.
    """
    std = s * math.sin(eta * math.pi / 2)
    kept = (s.square() - std.square()).clamp(min=0).sqrt()
    x0, noise = clean(x, velocity, t), noise_of(x, velocity, t)
    return Transition(along(1 - s, x) * x0 + along(kept, x) * noise, std)


def ddpm(
    x: Float[Tensor, "n *d"],
    x0: Float[Tensor, "n *d"],
    kept: Float[Tensor, "n"],
    kept_next: Float[Tensor, "n"],
) -> Transition:
    """DDPM's posterior q(x_s | x_t, x₀) for x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε (arXiv 2006.11239, equations 6 and 7).

    ``kept``, ``kept_next``: ᾱ_t and ᾱ_s, the share of variance that is the data's; ᾱ_s > ᾱ_t.
    """
    step = kept / kept_next
    left, drawn = (1 - kept_next) / (1 - kept), 1 - step
    mean = along(kept_next.sqrt() * drawn / (1 - kept), x) * x0 + along(step.sqrt() * left, x) * x
    return Transition(mean, (left * drawn).sqrt())


def clean_of_noise(
    x: Float[Tensor, "n *d"], noise: Float[Tensor, "n *d"], kept: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """The x₀ that DDPM's predicted ε means: (x_t − √(1 − ᾱ) ε)/√ᾱ."""
    return (x - along((1 - kept).sqrt(), x) * noise) / along(kept.sqrt(), x)


def mean_gap(mean: Float[Tensor, "n *d"], other: Float[Tensor, "n *d"]) -> Float[Tensor, "n"]:
    """½ |μ − μ′|², summed over dimensions: of equal variances the divergence but for its factor, and what is left of it
    where the variance is 0."""
    return (mean - other).square().flatten(1).sum(1) / 2


def gaussian_kl(
    mean: Float[Tensor, "n *d"], other: Float[Tensor, "n *d"], std: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """KL(N(μ, std² I) ‖ N(μ′, std² I)) = |μ − μ′|²/(2 std²), in nats, summed over dimensions. std > 0."""
    return mean_gap(mean, other) / std.square()


def gaussian_log_prob(
    x: Float[Tensor, "n *d"], mean: Float[Tensor, "n *d"], std: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """log N(x; mean, std² I), in nats, summed over dimensions. std > 0."""
    dims = x[0].numel()
    return -mean_gap(x, mean) / std.square() - dims * (std.log() + math.log(2 * math.pi) / 2)


def ddpm_contraction(kept: Float[Tensor, "*n"], variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """What all DDPM steps from a noise level down to the data make of a small change of the sample, of data N(m, s²)
    and the optimal denoiser, dimension by dimension: √ᾱ s²/(ᾱ s² + 1 − ᾱ), whatever is drawn.

    ``kept``: ᾱ of the first step; ``variance``: s². Below 1 where s² < 1 + 1/√ᾱ. (A step's mean has the slope
    √(ᾱ_t/ᾱ_s) v_s/v_t with v = ᾱ s² + 1 − ᾱ the variance at its level; the slopes' product telescopes.)
    """
    return kept.sqrt() * variance / (kept * variance + 1 - kept)
