"""How far a sampler of its own arithmetic is from the policy that is trained, at the tokens that it drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from selfteach.objective.batch import STUDENT
from selfteach.objective.engine import Outcome
from selfteach.objective.gate import SamplerCorrection
from selfteach.objective.positions import Quantity
from selfteach.training.reduce import gather_rows, sum_over_processes

WORST = 1e-2
"""Nats by which one token's two log-probs may differ in float32: kernels of another order of summation."""
MEAN = 5e-2
"""Nats in the mean in bfloat16, where single tokens may differ by more."""

COLUMN = f"logp_difference/{STUDENT}"


def watched(correction: SamplerCorrection) -> dict[str, Quantity]:
    """The column log π − log μ (nats) of every token, NaN of tokens that nobody drew; π before the batch's updates."""
    return {COLUMN: Quantity(correction.difference)}


def metrics(outcomes: Sequence[Outcome], cap: float) -> Mapping[str, float]:
    """Over the drawn tokens of all processes: mean and largest |log π − log μ| in nats, mean of min(π/μ, ``cap``),
    share of tokens that the cap cut. Empty where nothing was drawn."""
    columns = [one.token[COLUMN] for one in outcomes if COLUMN in one.token]
    values = torch.cat([column[~column.isnan()] for column in columns]) if columns else torch.zeros(0)
    ratio = values.exp()
    sums = sum_over_processes(
        {
            "count": float(len(values)),
            "difference": float(values.abs().sum()),
            "ratio": float(ratio.clamp(max=cap).sum()),
            "cut": float((ratio > cap).sum()),
        }
    )
    largest = max(gather_rows([float(values.abs().max()) if len(values) else 0.0]))
    if not sums["count"]:
        return {}
    return {
        "sampling/logp_difference/mean": sums["difference"] / sums["count"],
        "sampling/logp_difference/max": largest,
        "sampling/importance_ratio/mean": sums["ratio"] / sums["count"],
        "sampling/importance_ratio/capped": sums["cut"] / sums["count"],
    }
