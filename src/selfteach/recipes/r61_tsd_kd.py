"""Distillation on chosen tokens, by a teacher that scores and one that ranks (TSD-KD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class TSDKD(Recipe):
    """Three losses on the student's own tokens, each where it helps: imitate, be ranked, decide.

    "Explain in Your Own Words" (arXiv 2603.13260; formulas of its released code). With the student p, an external
    teacher q, and entropies H in nats:

        direct    (1/T) Σ_t σ( H(p) − H(q) ) JSD_β( q ‖ p )                                        over all tokens
        ranking   mean over the opening of −log PL( the student's K likeliest, in the teacher's order )
        entropy   mean of H(p) over the tokens with H(p) at least its ``entropy_quantile``
        L = direct + entropy_weight · entropy + alpha · ranking

    The opening of an answer are the tokens before a share ``rho`` of its summed entropy. Weights and choices carry no
    gradient. With chance ``lmbda`` a step's answers are the student's own, else the data's.
    """

    name = "tsd-kd"
    title = "Token-Selective Dual Knowledge Distillation"
    source = "https://arxiv.org/abs/2603.13260"
    formula = "mean_t σ(H(p)−H(q)) JSD_β + mean_{H high} H(p) + α mean_{opening} −log PL"
    presets = {"paper": {}, "repository": {"order": "reversed"}, "gkd": {"alpha": 0.0, "entropy_weight": 0.0}}

    rollouts: Rollouts = Rollouts(max_tokens=128)
    optimization: Optimization = Optimization(lr=5e-6, prompts=128, schedule="cosine", steps=1800, warmup=180)
    teacher: str = "Qwen/Qwen2.5-14B-Instruct"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    lmbda: UnitInterval = 1.0
    """λ, how often a step's answers are the student's own (1: on-policy)."""
    beta: UnitInterval = 0.9
    """β of the generalized JSD: 0 forward KL, 1 reverse KL."""
    weighted: bool = True
    """Weigh the direct loss by σ(H(p) − H(q)) (paper), or not (plain GKD)."""
    alpha: NonNegativeFloat = 0.1
    """α, the ranking's coefficient."""
    entropy_weight: NonNegativeFloat = 1.0
    """The entropy's coefficient."""
    rho: PositiveUnit = 0.1
    """ρ, the share of an answer's summed entropy that its opening holds."""
    entropy_quantile: UnitInterval = 0.1
    """Entropy is lowered at tokens from this quantile on (released code: 0.1, nine tokens of ten; 0.9 would be the most
    uncertain tenth, of which the paper speaks)."""
    student_top_k: PositiveInt = 10
    """K, how many of the student's likeliest tokens are ranked."""
    order: Literal["teacher", "reversed"] = "teacher"
    """The ranking whose likelihood is raised: the teacher's, or (released code) its reverse."""
    reference: str = "solution"
    """The private field that holds the data's answers."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if tools.random("source", shared=True).random() < self.lmbda:
            return tools.sample(prompts, self.rollouts.per_prompt)
        return tools.quote(prompts, self.reference)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        target, seen, entropy = FromRole(TEACHER), stats.seen(TEACHER), stats.entropy()
        surer = torch.sigmoid(entropy - stats.entropy(TEACHER)) if self.weighted else torch.ones_like(entropy)
        yield Match(
            name="direct", target=target, divergence=gkd_jsd(self.beta), weight=torch.where(seen, surer, 0.0)
        )
        if self.entropy_weight:
            yield Entropy(
                name="entropy",
                penalty=True,
                where=seen & (entropy >= stats.quantile(entropy, self.entropy_quantile, seen)),
                mean_over="selected",
                coefficient=self.entropy_weight,
            )
        if self.alpha:
            yield Match(
                name="ranking",
                target=target,
                divergence=PlackettLuce(self.order),
                support=TopK(self.student_top_k, of="student", tail="drop"),
                where=opening(entropy, seen, self.rho),
                mean_over="selected",
                coefficient=self.alpha,
            )


def opening(entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], share: float) -> Bool[Tensor, "N T"]:
    """[N, T] bool: of each row the written tokens before the first at which its summed entropy (nats) reaches this
    share of all of it."""
    spent = torch.where(mask, entropy, 0.0).cumsum(dim=1)
    return mask & (spent < share * spent[:, -1:])
