"""Self-distillation policy optimization (SDPO), reinforcement learning from rich feedback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from jaxtyping import Bool
from torch import Tensor

from selfteach.recipes.kit import *

SEC4 = {"feedback": "always", "alpha": 1.0, "student_top_k": 20, "update_rate": 0.01, "lr": 1e-6, "warmup": 0}
ALONE = {"sibling": False, "clip_advantage": 5.0, "per_prompt": 16, "prompts": 1, "steps": 172}
"""One question, answered until it is solved: no right sibling exists yet (sec. 5)."""


@settings
class SDPO(Recipe):
    """Pull the student to what it would have said, had it read the feedback on its own attempt.

    "Reinforcement Learning via Self-Distillation" (arXiv 2601.20802). The student p answers the question x;
    the teacher q, its running average, reads x with a right answer from the same group and/or the verifier's text f
    and scores those very tokens:

        L = mean over the tokens of rollouts that got an f of  min(p/μ, 2) · D_α( p(·|x, y<t), sg q(·|x, f, y<t) )

    D_α is forward KL(q‖p) at α = 0, reverse KL(p‖q) at 1, else (1 − α) KL(p‖m) + α KL(q‖m) with m = (1 − α) p + α q,
    on the student's K likeliest tokens and one bucket for the rest; μ is the policy that sampled. The reverse KL's
    gradient is a policy gradient with advantage log q(v) − log p(v) for every token v (proposition 2.1). A rollout
    with neither a right sibling nor feedback counts nowhere.
    """

    name = "sdpo"
    title = "Self-Distillation Policy Optimization"
    source = "https://arxiv.org/abs/2601.20802"
    formula = "mean_t min(p/μ, 2) · JSD_α( p(·|x,y<t), sg q(·|x,f,y<t) ) on the student's top K + tail"
    presets = {
        "sec3": {},
        "sec4": SEC4,
        "ttt": {**SEC4, **ALONE},
        "trust-region": {**SEC4, "weights": "trust-region"},
        "grpo-mix": {**SEC4, "grpo_share": 0.9},
        "released": {"mean_over": "rollouts"},
        "trl": {"loss": "sampled", "alpha": 1.0, "student_top_k": None, "tail": "renormalize"},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-5, warmup=10, weight_decay=0.01)
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28, scale="none")
    student_thinking: bool | None = False
    """Thinking flag of both chat templates: off in the paper."""
    weights: Literal["ema", "trust-region", "frozen", "live"] = "ema"
    """Whose scores teach: the student's average (paper), the initial policy's with a little of the live one's,
    the initial policy's, or the live one's."""
    update_rate: UnitInterval = 0.05
    """Share of the new weights in each average, or of the live scores in a trust region (sec. 4: 0.01)."""
    sibling: bool = True
    """Show the teacher the first right answer of the rollout's group."""
    own_success: bool = False
    """A right answer may be shown to itself (the paper's table 2; off in the released scripts)."""
    feedback: Literal["always", "without-sibling", "never"] = "never"
    """Show what the verifier said: never (sec. 3), always (sec. 4), or only where no right sibling stands."""
    loss: Literal["distribution", "sampled", "sequence"] = "distribution"
    """Credit by the whole distribution (paper), by the sampled token, or by its mean over the answer (ablation)."""
    alpha: UnitInterval = 0.5
    """0: forward KL(q‖p), 1: reverse KL(p‖q) (sec. 4), between: JSD with α on the teacher."""
    student_top_k: PositiveInt | None = 100
    """Compare on the student's k likeliest tokens (sec. 4: 20; none: full vocabulary)."""
    tail: Tail = "bucket"
    """What becomes of the mass outside these: one bucket (paper), both sides renormalized (TRL), or dropped."""
    clip_advantage: PositiveFloat | None = None
    """Bound on |log q − log p| in the reverse KL's gradient (sec. 5: 5; not in the released loss; none: unbounded)."""
    is_clip: PositiveFloat | None = 2.0
    """Cap on the importance ratio policy/sampler of each token (none: no such weight)."""
    distill: Literal["all", "wrong", "right"] = "all"
    """Which rollouts are distilled: all that got feedback, or only wrong or right ones (ablation of SRPO)."""
    grpo_share: UnitInterval = 0.0
    """λ of the mixed advantage λ A_GRPO + (1 − λ) A_SDPO, A_GRPO = reward − group mean (``scale`` none; ablation:
    0.9)."""
    mean_over: Literal["tokens", "rollouts"] = "tokens"
    """Mean over all distilled tokens, or of each rollout's mean where one without feedback counts 0 (what the
    released code does at its micro-batch of one)."""

    def __post_init__(self) -> None:
        require(
            self.sibling or self.feedback in ("always", "without-sibling"),
            "the teacher would read the bare question: set sibling, or feedback always",
        )
        require(
            self.rollouts.per_prompt >= 2 or (self.feedback != "never" and not self.grpo_share),
            "siblings and group advantages need per_prompt of at least 2",
        )
        require(
            self.loss == "distribution" or (self.alpha == 1 and self.student_top_k is None),
            f"loss {self.loss} is the reverse KL of the sampled token: set alpha 1 and student_top_k none",
        )
        require(
            self.loss != "sequence" or self.weights != "trust-region",
            "loss sequence needs one teacher: weights ema, frozen or live",
        )
        require(
            self.clip_advantage is None or (self.alpha == 1 and self.loss == "distribution"),
            "clip_advantage clips the reverse KL's advantages: set alpha 1 and loss distribution",
        )
        require(
            self.tail != "renormalize" or self.student_top_k != 1,
            "one token renormalized has probability 1 on both sides: the loss is always 0",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        view = Reprompt(self.sibling, self.feedback, self.own_success, self.distill)

        def reading(weights: Weights) -> Role:
            return Role(weights, view, self.student_thinking)

        if self.weights == "trust-region":
            return {TEACHER: reading(Live()), REFERENCE: reading(Frozen())}
        whose: Mapping[str, Weights] = {
            "ema": EMA(1 - self.update_rate, from_start=True), "frozen": Frozen(), "live": Live(),
        }  # fmt: skip
        return {TEACHER: reading(whose[self.weights])}

    @property
    def target(self) -> Target:
        if self.weights == "trust-region":
            return TrustRegion(TEACHER, REFERENCE, self.update_rate)
        return FromRole(TEACHER)

    @property
    def divergence(self) -> Divergence:
        if self.clip_advantage is not None:
            return ReverseKL(detach_ratio=True, clip_ratio=self.clip_advantage)
        return gkd_jsd(self.alpha)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.grpo_share:
            yield self.grpo.term("grpo", stats, coefficient=self.grpo_share)
        if self.grpo_share < 1:
            yield self.distillation(stats)

    def distillation(self, stats: Statistics) -> Term:
        rollouts = self.mean_over == "rollouts"
        seen = stats.seen(TEACHER)
        summands = seen.sum(dim=1).clamp(min=1).to(stats.dtype) * stats.rows.sum().clamp(min=1)
        shared: dict[str, Any] = {
            "name": "distill", "where": self.taught(stats),
            "weight": 1 / summands if rollouts else 1.0, "mean_over": "sum" if rollouts else "selected",
            "gate": None if self.is_clip is None else stats.importance(self.is_clip),
            "coefficient": 1 - self.grpo_share,
        }  # fmt: skip
        if self.loss == "sequence":
            gained = stats.log_prob(TEACHER) - stats.log_prob()
            informed: dict[str, Signal] = {TEACHER: "sampled"}
            return PolicyGradient(advantage=stats.sequence_mean(gained, seen), informed_by=informed, **shared)
        if self.loss == "sampled":
            return Sampled(target=self.target, **shared)
        support = likeliest(self.student_top_k, "student", self.tail)
        return Match(target=self.target, divergence=self.divergence, support=support, **shared)

    def taught(self, stats: Statistics) -> Bool[Tensor, "N"]:
        """[N] the rollouts that are distilled: those whose teacher was shown something, of the kind asked for."""
        seen = stats.available(TEACHER)
        if self.distill == "all":
            return seen
        return seen & (stats.correct if self.distill == "right" else ~stats.correct)
