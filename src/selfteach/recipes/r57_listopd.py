"""Extrapolation held below the scale at which near-certain tokens break (ListOPD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *
from selfteach.recipes.r33_exopd import ExOPD

TINY = 1e-12
"""No token is surer than this."""


@settings
class ListOPD(ExOPD):
    """ExOPD with a scale λ below its cliff: where a format's token is nearly certain, a larger one loses the format.

    "The Extrapolation Cliff" (arXiv 2605.08737). Of two outcomes at a position, the likelier with probability p by the
    teacher and b by the reference, the extrapolated optimum is logit p_λ = (1 − λ) logit b + λ logit p. A weight cut at
    c = ``is_cap`` can bring back what it lost as long as 1 − p_λ ≥ (1 − p) / c, that is up to

        λ* = [ log((1−p)/(c−1+p)) − log((1−b)/b) ] / [ log((1−p)/p) − log((1−b)/b) ]

    With ``teacher_modal`` (and ``reference_modal``) measured, a scale from λ* on is refused. The metrics
    ``extrapolation/teacher_modal``, ``reference_modal`` and ``limit`` say p, b and λ* of the tokens that a single
    teacher is nearly sure of; at λ = 1, where there is no reference, with b as given. The limit is that of sampled
    tokens, whose weights are cut. What "clip-safe" means and whose base b is are inferred.
    """

    name = "listopd"
    title = "The Extrapolation Cliff: listwise on-policy distillation"
    source = "https://arxiv.org/abs/2605.08737"
    presets = {"paper": {}}

    rollouts: Rollouts = Rollouts(max_tokens=1024)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger, fine-tuned model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    reward_scale: NonNegativeFloat = 1.2
    """λ (paper: just below its 1.22)."""
    teacher_modal: OpenUnit | None = None
    """p, the teacher's probability of its likeliest token where the format decides (none: not known, λ is not held
    against λ*)."""
    reference_modal: OpenUnit = 0.5
    """b, the reference's probability of that token (0.5: it has no opinion)."""
    structural: OpenUnit = 0.99
    """Tokens whose likeliest word has at least this probability by the teacher are taken for the format's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.is_cap is None or self.is_cap >= 1,
            "is_cap must be at least 1: a weight of 1 corrects nothing",
        )
        if (
            self.teacher_modal is None
            or self.is_cap is None
            or self.reward_scale <= 1
            or self.estimator == "full"
        ):
            return
        limit = scale_limit(self.teacher_modal, self.reference_modal, self.is_cap)
        require(
            self.reward_scale < limit,
            f"reward_scale {self.reward_scale:g} is not below {limit:.3f}, where a format of teacher_modal "
            f"{self.teacher_modal:g} breaks under is_cap {self.is_cap:g}: lower it",
        )

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield from super().terms(stats)
        if TEACHER in self.teachers:
            self.metered(stats, [name for name in (TEACHER, REFERENCE) if name in self.teachers])

    def metered(self, stats: Statistics, roles: Sequence[str]) -> None:
        """Report p and b, means over the format's tokens, and λ*."""
        seen = torch.stack([stats.seen(name) for name in roles]).all(dim=0)
        tails = [
            stats.column(f"tail/{name}", Quantity(tail(name, self.temperature), (TEACHER, name)))
            for name in roles
        ]
        chosen = seen & (tails[0] <= math.log1p(-self.structural))
        if not chosen.any():
            return
        found = [1 - min(max(float(one[chosen].double().exp().mean()), TINY), 1 - TINY) for one in tails]
        p, b = (found[0], self.reference_modal) if len(found) == 1 else found
        stats.report("extrapolation/teacher_modal", p)
        stats.report("extrapolation/reference_modal", b)
        if self.is_cap is not None and self.estimator == "sampled":
            stats.report("extrapolation/limit", scale_limit(p, b, self.is_cap))


def scale_limit(p: float, b: float, c: float) -> float:
    """λ* of a token of modal probability p by the teacher and b by the reference, under weights up to c (theorem 4.1).

    Infinite where the reference is as sure as the teacher, or surer: extrapolation then takes certainty away. Raises
    ValueError unless 0 < p, b < 1 ≤ c.
    """
    if not (0 < p < 1 and 0 < b < 1 and c >= 1):
        raise ValueError(f"p and b must lie in (0, 1) and c be at least 1, got {p}, {b} and {c}")
    of_reference, of_teacher = (math.log1p(-x) - math.log(x) for x in (b, p))
    if of_teacher >= of_reference:
        return math.inf
    return (math.log1p(-p) - math.log(c - 1 + p) - of_reference) / (of_teacher - of_reference)


def tail(role: str, temperature: float) -> Callable[[Positions], Float[Tensor, "P"]]:
    """Positions → [P] log of the role's probability (nats) that the teacher's likeliest token is not drawn: a
    probability near 1 would be rounded to it."""

    def others(at: Positions) -> Float[Tensor, "P"]:
        likeliest = at.logits[TEACHER].argmax(-1, keepdim=True)
        return at.log_probs(role, temperature).scatter(-1, likeliest, -torch.inf).logsumexp(-1)

    return others
