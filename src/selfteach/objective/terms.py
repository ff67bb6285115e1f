"""The summands of a loss. Each is a sum over tokens of (constant weight × that token's loss).

A term says which tokens count (``where``), how much (``weight``), what they are divided by (``mean_over``) and
what one token's loss is. The first three are fixed before any gradient is taken; the last needs one position's
logits only. So terms can be summed in chunks of positions, micro-batches and processes with the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from selfteach.objective import sampled
from selfteach.objective.divergence import Divergence
from selfteach.objective.positions import STUDENT, Positions, Temperature
from selfteach.objective.support import Full, Support
from selfteach.objective.target import Target

Reduction = Literal["tokens", "selected", "sequences", "rollouts", "sum"]


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """One summand: coefficient · Σ weight · loss / denominator over the selected positions.

    ``weight`` and ``where``: number, [N] or [N, T], without gradient. ``mean_over``: "tokens" divides by all
    tokens the policy wrote in the batch, "selected" by those selected here, "sequences" takes each rollout's
    mean over its written tokens and then the mean over rollouts with any selected token, "rollouts" each
    rollout's sum over its tokens and then that mean, "sum" divides by nothing; a bool tensor [N, T] divides by
    its count (a denominator shared between terms).
    """

    name: str
    weight: Tensor | float = 1.0
    where: Tensor | None = None
    mean_over: Reduction | Tensor = "tokens"
    coefficient: float = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers this term reads; rows that lack one of them are not selected."""
        return ()

    @abstractmethod
    def token_loss(self, at: Positions) -> Tensor:
        """[P] loss of each position in nats, differentiable in the student's logits."""

    def logit_gradient(self, at: Positions) -> tuple[Tensor, Tensor] | None:
        """([P] ``token_loss``, [P, V] its gradient in the student's logits) in closed form, called without
        gradient; None (the default): there is none, autograd is to find it.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Match(Term):
    """Pull the student's whole next-token distribution to a target (card 01 and most others).

    Both sides are divided by ``temperature`` before the softmax (``target_temperature`` if the teacher's
    differs). The support is cut before the divergence is taken.
    """

    target: Target
    divergence: Divergence
    support: Support = field(default_factory=Full)
    temperature: Temperature = 1.0
    target_temperature: Temperature | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        return self.target.names

    def token_loss(self, at: Positions) -> Tensor:
        student, target = student_and_target(self, at)
        return self.divergence(*self.support.restrict(student, target))

    def logit_gradient(self, at: Positions) -> tuple[Tensor, Tensor] | None:
        if not isinstance(self.support, Full):
            return None
        loss, gradient = self.divergence.value_and_logit_gradient(*student_and_target(self, at))
        return loss, at.divided(gradient, self.temperature)


@dataclass(frozen=True, kw_only=True)
class OfSampledToken(Term):
    """A term whose gradient passes through one number a position: the sampled token's log-prob (nats)."""

    temperature: Temperature = 1.0

    @abstractmethod
    def sampled_loss(self, log_prob: Tensor, at: Positions) -> Tensor:
        """[P] losses, differentiable in the policy's log-probs [P] of the sampled tokens."""

    def token_loss(self, at: Positions) -> Tensor:
        return self.sampled_loss(at.sampled(STUDENT, self.temperature), at)

    def logit_gradient(self, at: Positions) -> tuple[Tensor, Tensor]:
        log_prob = at.sampled(STUDENT, self.temperature).requires_grad_()
        with torch.enable_grad():
            loss = self.sampled_loss(log_prob, at)
            (slope,) = torch.autograd.grad(loss.sum(), log_prob)
        slope = slope.unsqueeze(-1)
        gradient = at.log_probs(STUDENT, self.temperature).exp().mul_(-slope)
        gradient.scatter_add_(-1, at.ids.unsqueeze(-1), slope)
        return loss.detach(), at.divided(gradient, self.temperature)


@dataclass(frozen=True, kw_only=True)
class SampledMatch(OfSampledToken):
    """Reverse KL to a target from the sampled token alone.

    "policy-gradient": −sg[log target(y) − log p(y)] · log p(y), whose mean over y ~ p is ∇KL(p‖target)
    (card 01 variant, card 33); "control-variate" adds the closed-form baseline KL(p‖target) (card 32);
    "k2", "k3": the estimators of that name as differentiable losses. ``truncate`` caps the importance ratio
    π/behavior where the batch carries behavior log-probs.
    """

    target: Target
    estimator: Literal["policy-gradient", "control-variate", "k2", "k3"] = "policy-gradient"
    target_temperature: Temperature | None = None
    behavior: Tensor | None = None
    truncate: float | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        return self.target.names

    def sampled_loss(self, log_prob: Tensor, at: Positions) -> Tensor:
        student, target = student_and_target(self, at)
        theirs = target.gather(-1, at.ids.unsqueeze(-1)).squeeze(-1)
        if self.estimator == "k2":
            loss = sampled.k2(log_prob, theirs)
        elif self.estimator == "k3":
            loss = sampled.k3(log_prob, theirs)
        else:
            advantage = sampled.distillation_advantage(log_prob, theirs)
            if self.estimator == "control-variate":
                advantage = advantage + sampled.control_variate(student, target)
            loss = sampled.policy_gradient(log_prob, advantage)
        if self.behavior is None:
            return loss
        behavior = torch.as_tensor(at.column(self.behavior))
        return sampled.importance_ratio(log_prob.detach(), behavior, self.truncate) * loss


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(OfSampledToken):
    """−A · log π of the sampled token, or PPO's clipped surrogate when ``clip`` = (low, high) is given.

    ``advantage`` [N] or [N, T], signed, constant. The ratio π/behavior needs ``behavior`` [N, T].
    """

    advantage: Tensor
    behavior: Tensor | None = None
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and self.behavior is None:
            raise ValueError("clip needs behavior: the ratio to clip is policy over behavior")

    def sampled_loss(self, log_prob: Tensor, at: Positions) -> Tensor:
        advantage = torch.as_tensor(at.column(self.advantage)).to(log_prob.dtype)
        if self.clip is None or self.behavior is None:
            return sampled.policy_gradient(log_prob, advantage)
        behavior = torch.as_tensor(at.column(self.behavior))
        return sampled.clipped_surrogate(log_prob, behavior, advantage, *self.clip)


@dataclass(frozen=True, kw_only=True)
class NegativeLogLikelihood(OfSampledToken):
    """−log π of each token: supervised fine-tuning, or likelihood of the policy's own good answers."""

    def sampled_loss(self, log_prob: Tensor, at: Positions) -> Tensor:
        return -log_prob


def student_and_target(term: Match | SampledMatch, at: Positions) -> tuple[Tensor, Tensor]:
    """([P, V] student log-probs with gradient, [P, V] target log-probs without)."""
    theirs = term.temperature if term.target_temperature is None else term.target_temperature
    student = at.log_probs(STUDENT, term.temperature)
    with torch.no_grad():
        scores = {name: at.log_probs(name, theirs) for name in term.target.names}
        target = term.target.log_probs(student.detach(), scores)
    return student, target


def selected(term: Term, mask: Tensor, available: Tensor) -> Tensor:
    """[N, T] bool: written tokens of rows whose teachers saw their views, where the term wants them."""
    chosen = mask & available.unsqueeze(1)
    if term.where is None:
        return chosen
    return chosen & (term.where if term.where.dim() == 2 else term.where.unsqueeze(1))


def token_coefficients(term: Term, mask: Tensor, available: Tensor) -> Tensor:
    """[N, T] constants c such that the term is Σ c · token loss. An empty selection gives zeros, never NaN."""
    chosen = selected(term, mask, available)
    # Float64, so that a float64 objective is not rounded by its denominators (MPS has none).
    exact = torch.float32 if mask.device.type == "mps" else torch.float64
    weight = torch.as_tensor(term.weight, device=mask.device).to(exact)
    if weight.dim() == 1:
        weight = weight.unsqueeze(1)
    per_token = torch.where(chosen, weight, torch.zeros_like(weight)) * term.coefficient
    return per_token / denominators(term.mean_over, mask, chosen).clamp(min=1)


def denominators(mean_over: Reduction | Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
    """What each position's summand is divided by: a 0-dim tensor, or [N, 1] for "sequences"."""
    if isinstance(mean_over, Tensor):
        return mean_over.sum()
    match mean_over:
        case "tokens":
            return mask.sum()
        case "selected":
            return chosen.sum()
        case "sequences":
            return mask.sum(dim=1, keepdim=True) * chosen.any(dim=1).sum()
        case "rollouts":
            return chosen.any(dim=1).sum()
        case "sum":
            return torch.ones((), device=mask.device)
    raise ValueError(
        f"mean_over must be tokens, selected, sequences, rollouts, sum or a bool tensor, got {mean_over!r}"
    )
