"""Estimators that see the sampled token only: log-probs [P] of the tokens y the policy wrote.

``student`` is log p(y) with gradient, ``teacher`` log q(y) and ``behavior`` log μ(y) without. Expectations
are over y ~ p at a fixed prefix; the target is the reverse KL(p ‖ q) and its gradient. An estimator may be
right in value and wrong in gradient, so each says both. A log-ratio is clamped to ± 20 before it is
exponentiated (beyond, the value is constant and the gradient 0); nothing else is clamped.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.axes import LogProbs
from selfteach.objective.divergence import ReverseKL
from selfteach.objective.support import Full, Support

LOG_RATIO_BOUND = 20.0
FULL = Full()


def k1(student: Float[Tensor, "*P"], teacher: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """log p(y) − log q(y). Value unbiased; gradient WRONG: as a loss it has mean zero and no trace of the
    teacher.

    E_y[∇ log p(y)] = 0. Use it detached, as a reward or a metric; as a loss use ``k2`` or
    ``policy_gradient``.
    """
    _check_shapes(student, teacher=teacher)
    return student - teacher.detach()


def k2(student: Float[Tensor, "*P"], teacher: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """½ (log p(y) − log q(y))². Value biased; gradient unbiased: E_y[∇k2] = ∇KL(p ‖ q). Never negative."""
    return 0.5 * k1(student, teacher).square()


def k3(student: Float[Tensor, "*P"], teacher: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """q/p − 1 − log(q/p) at y. Value unbiased and never negative; gradient WRONG for the reverse KL.

    E_y[∇k3] = ∇KL(q ‖ p): as a loss it is the forward KL (with the heavy tail of q/p).
    """
    gap = k1(student, teacher)
    return _exp(-gap) - 1 + gap


def policy_gradient(student: Float[Tensor, "*P"], advantage: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """−sg[A] · log p(y). The value means nothing; with A = ``distillation_advantage`` the gradient is
    unbiased.

    Adding to A anything that does not depend on y leaves the expected gradient as it is.
    """
    _check_shapes(student, advantage=advantage)
    return -advantage.detach() * student


def distillation_advantage(student: Float[Tensor, "*P"], teacher: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """sg[log q(y) − log p(y)]: the per-token reward of on-policy distillation, no gradient."""
    _check_shapes(student, teacher=teacher)
    return (teacher - student).detach()


def distillation(student: Float[Tensor, "*P"], teacher: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """``policy_gradient`` with ``distillation_advantage``: E_y[∇] = ∇KL(p ‖ q); the value means nothing."""
    return policy_gradient(student, distillation_advantage(student, teacher))


def control_variate(
    student_full: LogProbs, teacher_full: LogProbs, support: Support = FULL
) -> Float[Tensor, "*P"]:
    """KL(p ‖ q) from full log-probs [P, V] → [P], no gradient: minus the mean of ``distillation_advantage``.

    Add it to that advantage (vOPD): the sum has mean zero and the same expected gradient. A ``support`` such as
    ``TopK(100, of="student", tail="renormalize")`` keeps it independent of y, so the gradient stays unbiased, but the
    mean is no longer exactly 0. It lowers the variance summed over positions, not that of each. ValueError: shapes or
    types differ, NaN.
    """
    return ReverseKL()(*support.restrict(student_full.detach(), teacher_full))


def importance_ratio(
    student: Float[Tensor, "*P"], behavior: Float[Tensor, "*P"], truncate: float | None = None
) -> Float[Tensor, "*P"]:
    """sg[min(p(y)/μ(y), ``truncate``)]: a weight, without gradient. Unbiased without truncation. ValueError:
    truncate ≤ 0.
    """
    if truncate is not None and not truncate > 0:
        raise ValueError(f"truncate must be positive or None, got {truncate}")
    _check_shapes(student, behavior=behavior)
    ratio = _exp((student - behavior).detach())
    return ratio if truncate is None else ratio.clamp(max=truncate)


def clipped_surrogate(
    student: Float[Tensor, "*P"],
    behavior: Float[Tensor, "*P"],
    advantage: Float[Tensor, "*P"],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "*P"]:
    """PPO's −min(r A, clamp(r, 1 − clip_low, 1 + clip_high) A), r = p(y)/μ(y), A detached.

    At p = μ the gradient is ``policy_gradient``'s. ValueError: a clip outside its range (0 ≤ clip_low ≤ 1, 0
    ≤ clip_high).
    """
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low must lie in [0, 1], got {clip_low}")
    if not clip_high >= 0:
        raise ValueError(f"clip_high must not be negative, got {clip_high}")
    _check_shapes(student, behavior=behavior, advantage=advantage)
    advantage = advantage.detach()
    ratio = _exp(student - behavior.detach())
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def _check_shapes(student: Tensor, **others: Tensor) -> None:
    """Equal, not broadcastable: [P] against [P, 1] would silently pair every token with every other."""
    for name, other in others.items():
        if other.shape != student.shape:
            raise ValueError(f"{name} has shape {list(other.shape)}, student {list(student.shape)}")


def contrast(
    own: Float[Tensor, "P"], good: Float[Tensor, "P"], wrong: Float[Tensor, "P"], margin: float = 0.0
) -> Float[Tensor, "P"]:
    """[P] relu(margin + |log p − log q⁺| − |log p − log q⁻|): nearer to the good teacher than to the wrong one by a
    margin, in nats (UniSD). Differentiable in ``own``."""
    return torch.relu(margin + (own - good).abs() - (own - wrong).abs())
