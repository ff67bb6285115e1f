"""The baseline that bounds a teacher's reproof, and later minds open choices alone (REOPOLD)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class REOPOLD(Recipe):
    """Distill from the sampled tokens, but heed no reproof beyond a floor: first without such tokens, then where it is
    the student who is unsure.

    "Scaling Reasoning Efficiently via Relaxed On-Policy Distillation" (arXiv 2603.11137). On the student's tokens y_t,
    with the teacher q, the student p and R_t = log q(y_t) − log p(y_t), constant:

        L = − Σ_t M_t max(R_t, floor) log p(y_t) / Σ_t M_t,      floor = log λ / (1 − λ)
        M_t = 1[ R_t ≥ floor ] in the first ``explore_steps`` steps,
        then 1[ the entropy of p is among the ``refine_share`` highest of the batch ]

    p in R is the policy that wrote the tokens. The loss is that of an implementation beside PW-OPSD's.
    """

    name = "reopold"
    title = "Relaxed On-Policy Distillation (REOPOLD)"
    source = "https://arxiv.org/abs/2603.11137"
    formula = "−Σ M max( log q/p, log λ/(1−λ) ) log p / Σ M"
    sizes = {**Recipe.sizes, "explore_steps": "schedule"}
    presets = {"paper": {}, "self": {"teacher": ITSELF}}

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization(lr=5e-6)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME; or "self", the
    initial policy that reads the reference solution (as in PW-OPSD's comparison)."""
    mixture: OpenUnit = 0.1
    """λ of the floor (0.1: −2.56 nats)."""
    explore_steps: NonNegativeInt = 50
    """Steps of the first phase, in which tokens below the floor are left out."""
    refine_share: PositiveUnit = 0.2
    """β, the share of the batch's tokens that count afterwards, those of highest entropy of the student."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: itself_or(self.teacher, self.student_thinking)}

    @property
    def floor(self) -> float:
        """The lowest reward of a token, in nats."""
        return math.log(self.mixture) / (1 - self.mixture)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        # A behavior of +inf is no number: it must not pass for a reproof.
        behavior = stats.behavior_log_prob
        reward = stats.log_prob(TEACHER) - behavior.masked_fill(behavior == math.inf, math.nan)
        yield PolicyGradient(
            name="distill",
            advantage=reward.clamp(min=self.floor),
            where=self.heeded(stats, reward),
            informed_by={TEACHER: "sampled"},
            mean_over="selected",
        )

    def heeded(self, stats: Statistics, reward: Float[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
        """[N, T] bool: M."""
        if stats.step < self.explore_steps:
            return ~(reward < self.floor)  # what is no number is read, and refused
        seen, uncertainty = stats.seen(TEACHER), stats.entropy()
        return seen & (uncertainty >= stats.quantile(uncertainty, 1 - self.refine_share, seen))
