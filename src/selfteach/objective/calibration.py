"""How well stated confidences agree with what was right."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BINS = 10


def calibration(confidence: Float[Tensor, "N"], right: Bool[Tensor, "N"]) -> dict[str, float]:
    """Of N answers with stated confidences in [0, 1] (CaOPD); empty of no answer.

    ``ece``: expected calibration error, the mean over answers of |mean confidence − share right| of their bin, ten bins
    of equal width. ``brier``: mean (c − R)². ``gap``: mean confidence − share right, above 0 where it claims too much.
    ``ranked``: probability that a right answer is stated with strictly more confidence than a wrong one; 0 where there
    are not both.
    """
    if not len(confidence):
        return {}
    c, hit = confidence.double(), right.double()
    index = (
        (c * BINS + 1e-6).long().clamp(0, BINS - 1)
    )  # 0.7 in single precision lies in the bin that it begins
    excess = torch.zeros(BINS, dtype=c.dtype, device=c.device).index_add_(0, index, c - hit)
    pairs = c[right].unsqueeze(1) > c[~right].unsqueeze(0)
    return {
        "ece": float(excess.abs().sum() / len(c)),
        "brier": float(((c - hit) ** 2).mean()),
        "gap": float((c - hit).mean()),
        "ranked": float(pairs.double().mean()) if pairs.numel() else 0.0,
    }
