"""The estimate of the reverse KL whose gradient is right too: k3 times the importance ratio (Skill-SD)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.sampled import LOG_RATIO_BOUND, k3
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import OfColumns, Signal
from selfteach.recipes.base import TEACHER


def importance_k3(
    log_prob: Float[Tensor, "P"],
    behavior: Float[Tensor, "P"],
    teacher: Float[Tensor, "P"],
    cap: float | None = None,
    bound: float | None = None,
) -> Float[Tensor, "P"]:
    """[P] ρ (exp(−l) − 1 + l) in nats, ρ = π/μ, l = log π − log q at the sampled token y ~ μ; differentiable through
    ρ and l.

    For every ρ the gradient is ρ · l · ∇log π, so that E_μ is KL(π‖q) in value and gradient, where k3 without ρ has
    that of KL(q‖π). ``cap``: ρ is at most this, and has no gradient beyond, where
    k3's own is left, cap (1 − exp(−l)) ∇log π. ``bound``: |l| is at most this (nats), without any gradient beyond.
    """
    ratio = (log_prob - behavior).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    gap = log_prob - teacher
    if bound is not None:
        # Beyond the bound k3 is a constant: ρ alone would push away what the teacher likes best.
        ratio = torch.where(gap.abs() > bound, ratio.detach(), ratio)
        gap = gap.clamp(-bound, bound)
    return (ratio if cap is None else ratio.clamp(max=cap)) * k3(gap, torch.zeros_like(gap))


def importance_k3_term(
    stats: Statistics, *, cap: float | None = None, bound: float | None = None, **fields: Any
) -> OfColumns:
    """The same as the term "distill" towards role ``teacher``, of signal "sampled", over the tokens that it sees unless
    ``fields`` say otherwise."""
    informed: Mapping[str, Signal] = {TEACHER: "sampled"}
    chosen = {"where": stats.seen(TEACHER), "mean_over": "selected", **fields}
    return OfColumns(
        name="distill",
        function=partial(importance_k3, cap=cap, bound=bound),
        columns={"behavior": stats.behavior_log_prob, "teacher": stats.log_prob(TEACHER)},
        informed_by=informed,
        **chosen,
    )
