"""Extrapolation held below the scale at which near-certain tokens break (ListOPD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *
from selfteach.recipes.r33_exopd import ExOPD


@settings
class ListOPD(ExOPD):
    """ExOPD with a scale λ below its cliff: where a format's token is nearly certain, a larger one loses the format.

    "The Extrapolation Cliff" (arXiv 2605.08737). Of two outcomes at a position, the likelier with probability p by the
    teacher and b by the reference, the extrapolated optimum is logit p_λ = (1 − λ) logit b + λ logit p. A weight cut at
    c = ``is_cap`` can bring back what it lost as long as 1 − p_λ ≥ (1 − p) / c, that is up to

        λ* = [ log((1−p)/(c−1+p)) − log((1−b)/b) ] / [ log((1−p)/p) − log((1−b)/b) ]

    With ``teacher_modal`` (and ``reference_modal``) measured, a scale from λ* on is refused. The metrics
    ``extrapolation/teacher_modal``, ``reference_modal`` and ``limit`` say p, b and λ* of the tokens that the teacher is
    nearly sure of. What "clip-safe" means and whose base b is are inferred (card 57).
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
        if self.teacher_modal is None or self.is_cap is None:
            return
        limit = scale_limit(self.teacher_modal, self.reference_modal, self.is_cap)
        require(
            self.reward_scale < limit,
            f"reward_scale {self.reward_scale:g} is not below {limit:.3f}, where a format of teacher_modal "
            f"{self.teacher_modal:g} breaks under is_cap {self.is_cap:g}: lower it",
        )

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield from super().terms(stats)
        if self.reward_scale != 1 and TEACHER in self.teachers and self.is_cap is not None:
            self.metered(stats, self.is_cap)

    def metered(self, stats: Statistics, cap: float) -> None:
        """Report p and b, means over the format's tokens, and λ*."""
        columns = {
            name: stats.column(f"modal/{name}", Quantity(modal(name), (TEACHER, name)))
            for name in (TEACHER, REFERENCE)
        }
        chosen = stats.seen(TEACHER) & stats.seen(REFERENCE) & (columns[TEACHER] >= self.structural)
        if not chosen.any():
            return
        p, b = (float(column[chosen].mean().clamp(1e-9, 1 - 1e-9)) for column in columns.values())
        stats.report("extrapolation/teacher_modal", p)
        stats.report("extrapolation/reference_modal", b)
        stats.report("extrapolation/limit", scale_limit(p, b, cap))


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


def modal(role: str) -> Callable[[Positions], Float[Tensor, "P"]]:
    """Positions → [P] the role's probability of the teacher's likeliest token."""

    def chance(at: Positions) -> Float[Tensor, "P"]:
        likeliest = at.logits[TEACHER].argmax(-1, keepdim=True)
        return at.log_probs(role).gather(-1, likeliest).squeeze(-1).exp()

    return chance
