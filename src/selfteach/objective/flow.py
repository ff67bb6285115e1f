"""Flow matching on straight paths, x_t = (1 − t) x₀ + t ε: what a velocity, a clean prediction and a score say of each
other (arXiv 2210.02747, 2209.03003). t = 0 is data, t = 1 noise ε ~ N(0, I)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def along(t: Float[Tensor, "n"], x: Float[Tensor, "n *d"]) -> Float[Tensor, "n ..."]:
    """One number a row, shaped so that it multiplies rows of any shape."""
    return t.reshape(-1, *[1] * (x.dim() - 1))


def interpolated(
    x0: Float[Tensor, "n *d"], noise: Float[Tensor, "n *d"], t: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """x_t = (1 − t) x₀ + t ε."""
    at = along(t, x0)
    return (1 - at) * x0 + at * noise


def velocity(x0: Float[Tensor, "n *d"], noise: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
    """dx_t/dt = ε − x₀, which a network learns the mean of."""
    return noise - x0


def clean(
    x: Float[Tensor, "n *d"], velocity: Float[Tensor, "n *d"], t: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """The x₀ that a velocity at x_t means: x_t − t v."""
    return x - along(t, x) * velocity


def noise_of(
    x: Float[Tensor, "n *d"], velocity: Float[Tensor, "n *d"], t: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """The ε that a velocity at x_t means: x_t + (1 − t) v."""
    return x + (1 - along(t, x)) * velocity


def velocity_to(
    x: Float[Tensor, "n *d"], x0: Float[Tensor, "n *d"], t: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """The velocity at x_t that a clean prediction means: (x_t − x₀)/t. t > 0."""
    return (x - x0) / along(t, x)


def score_of(
    x: Float[Tensor, "n *d"], x0: Float[Tensor, "n *d"], t: Float[Tensor, "n"]
) -> Float[Tensor, "n *d"]:
    """∇ log p_t(x_t) of a posterior mean E[x₀ | x_t], by Tweedie's formula: ((1 − t) x₀ − x_t)/t². t > 0."""
    at = along(t, x)
    return ((1 - at) * x0 - x) / at.square()


def matching_loss(
    predicted: Float[Tensor, "n *d"], x0: Float[Tensor, "n *d"], noise: Float[Tensor, "n *d"]
) -> Float[Tensor, ""]:
    """Mean of (v − (ε − x₀))² over rows and dimensions."""
    return (predicted - velocity(x0, noise)).square().mean()


def guided(
    conditional: Float[Tensor, "n *d"], unconditional: Float[Tensor, "n *d"], scale: float
) -> Float[Tensor, "n *d"]:
    """Classifier-free guidance, u + w (c − u): w = 1 is the conditional prediction (arXiv 2207.12598)."""
    return unconditional + scale * (conditional - unconditional)
