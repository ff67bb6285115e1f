"""Losses of discriminators, and of who plays against one: high scores are of what it should prefer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry(preferred: Float[Tensor, "*n"], other: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """mean of −log σ(``preferred`` − ``other``), scores paired one to one, in nats.

    Its minimum over all functions of a sample is log p/q + c, p the density of what is preferred, q of the other. It is
    also the relativistic loss of a GAN (arXiv 1807.00734; with gradient penalties: arXiv 2501.05441): the
    discriminator's with real samples preferred, the generator's with its own.
    """
    return softplus(other - preferred).mean()


def logistic(real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """mean of −log σ(``real``) − log(1 − σ(``fake``)), a discriminator of arXiv 1406.2661 (equation 1, negated);
    its minimum is log p/q itself."""
    return softplus(-real).mean() + softplus(fake).mean()


def gradient_penalty(slopes: Float[Tensor, "*n d"]) -> Float[Tensor, ""]:
    """½ mean |∇D|² of a discriminator's gradients in its samples: R1 at real samples, R2 at a generator's own
    (arXiv 1801.04406)."""
    return slopes.square().sum(-1).mean() / 2
