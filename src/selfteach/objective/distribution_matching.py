"""Distribution matching distillation (DMD, arXiv 2311.18828; its step in this form: arXiv 2405.14867): a generator's
samples move by the difference of two scores of their noised selves, the data's and the generator's own. Averaged over
noise and times it is the gradient of KL(p_generator,t ‖ p_data,t)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def score_gap(
    x: Float[Tensor, "n d"], real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]
) -> Float[Tensor, "n d"]:
    """(fake − real)/mean |x − real|, of clean predictions at x_t: (s_fake − s_real) t²/(1 − t), divided by each row's
    mean distance of sample and data. Where the predictions are equal it is 0, also where x is equal to them."""
    apart = fake - real
    scaled = apart / (x - real).abs().mean(-1, keepdim=True)
    return torch.where(apart == 0, 0.0, scaled)


def surrogate(x: Float[Tensor, "n d"], gradient: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """½ (x − sg[x − gradient])², entry by entry: a number whose slope in x is ``gradient``."""
    return (x - (x - gradient).detach()).square() / 2
