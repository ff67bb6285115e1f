"""A reward that falls with an answer's length along half a cosine (TT-OPD)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.settings import settings

Ends = tuple[float, float]


@settings
class CosineReward:
    """f(t) = lo + ½ (hi − lo) (1 + cos(π t/T)) of an answer of length t < T, from hi at t = 0 to lo at t = T, with
    other ends for right and wrong ones; ``too_long`` from t = T on."""

    reward_right: Ends = (1.1, 0.7)
    """Reward of a right answer of no length, and of one of nearly T (released: 1.1 and 0.7)."""
    reward_wrong: Ends = (0.0, -0.3)
    """The same of a wrong answer (released: 0 and −0.3)."""
    reward_too_long: float = -0.5
    """Reward of any answer of T or more (released: −0.5)."""

    def of(self, right: Bool[Tensor, "N"], length: Float[Tensor, "N"], longest: float) -> Float[Tensor, "N"]:
        """[N] the rewards; ``longest`` is T, in the unit of ``length``."""

        def ends(of_right: float, of_wrong: float) -> Float[Tensor, "N"]:
            return torch.where(right, length.new_tensor(of_right), length.new_tensor(of_wrong))

        hi, lo = (ends(*pair) for pair in zip(self.reward_right, self.reward_wrong, strict=True))
        shaped = lo + 0.5 * (hi - lo) * (1 + torch.cos(math.pi * length / longest))
        return shaped.masked_fill(length >= longest, self.reward_too_long)
