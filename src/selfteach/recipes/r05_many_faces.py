"""The forms of on-policy distillation side by side, and what the teacher may know (Many Faces)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

RLVR, SFT = "rlvr", "sft"
"""The stages in which a teacher is made, and in which it is imitated."""


@settings
class ManyFaces(Recipe):
    """Pull the student to a teacher on its own tokens, by any of the losses that are in use and any privilege.

    "The Many Faces of On-Policy Distillation" (arXiv 2605.11182; formulas of its code). With P the student, Q the
    teacher (the same weights with a privilege in view, or another model) and S the student's k likeliest tokens,

        topk          Σ_S P (log P − log Q)                          biased: its gradient has ∇P(S) in it
        topk-sg       Σ_S P sg[log P − log Q]                        the mended one
        topk-tail     topk + (1 − P(S)) log( (1 − P(S)) / (1 − Q(S)) )
        intersect-sg  Σ_I P̃ (sg[log P̃] − log Q̃), I = S ∩ the teacher's k, P̃ and Q̃ renormalized on I
        wiener        w KL(P‖Q) + (1 − w) KL(Q‖P), w = m/(m + H(Q) + ε), m = max(0, log Q(y) − log P(y)), constant
        decoded       log Q(y) − log P(y)             sampled, ppo    its policy gradient, plain or clipped

    and the full KLs and JSD (``objective.forms``); L is the mean over rollouts of their token means. A rule that all
    examples share can be taken up by a student that does not see it; what belongs to one example comes in averaged.
    """

    name = "many-faces"
    title = "The Many Faces of On-Policy Distillation"
    source = "https://arxiv.org/abs/2605.11182"
    formula = "mean_y (1/|y|) Σ_t Σ_{v ∈ top-k of P} P(v) sg[ log P(v) − log Q(v) ]"
    sizes = {**Recipe.sizes, "sft_steps": "steps", "rlvr_steps": "steps"}
    presets = {
        "rule": {},
        "solution": {"privilege": "solution"},
        "answer": {"privilege": "answer", "lr": 2e-6},
        "opd": {"privilege": "none", "teacher": "Qwen/Qwen3-8B"},
        "bonus": {"reinforce": "bonus", "distill_weight": 0.0, "per_prompt": 8},
    }

    rollouts: Rollouts = Rollouts(max_tokens=8192)
    optimization: Optimization = Optimization(prompts=128, warmup=10, weight_decay=0.1, betas=(0.9, 0.98))
    grpo: GRPOSettings = GRPOSettings()
    student_thinking: bool | None = False
    """Thinking flag of both chat templates (one for both: a mismatch makes the first tokens' KL leap)."""
    teacher: str = ""
    """Another model of the same tokenizer: a folder, a hub id or arena:NAME (empty: the student's own weights)."""
    weights: Literal["frozen", "live"] = "frozen"
    """Which of the own weights teach: as they were at first (before stage "sft", if there is one), or as they are."""
    shown: Shown = Shown()
    loss: Form | Literal["ppo"] = "topk-sg"
    """What a token's loss is; "topk-forward": the forward KL on the teacher's k likeliest, log-probs as they are."""
    loss_top_k: PositiveInt = 20
    """k of the top-k losses (paper: 1, 5, 20, 50)."""
    beta: UnitInterval = 0.5
    """β of loss "jsd": 0 forward KL, 1 reverse KL."""
    distill_weight: NonNegativeFloat = 1.0
    """Coefficient of the distillation."""
    position_decay: NonNegativeFloat = 0.0
    """α: token t weighs exp(−α t / max_tokens), against growing length (paper: 1 to 5; 0: all alike)."""
    eos: NonNegativeFloat = 0.0
    """Coefficient of −(t / max_tokens) log P(end of turn), another guard against growing length."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-rollout token means, or mean over all tokens (a rollout weighs as its length)."""
    reinforce: Literal["none", "reward", "bonus"] = "none"
    """Reinforcement beside it: none, GRPO, or GRPO whose reward has the teacher's liking as a bonus."""
    bonus_weight: NonNegativeFloat = 0.1
    """α of reinforce "bonus", R + α R₂ where right, R − α R₂ where wrong; R₂: min–max in the group of mean log(Q/P)."""
    teacher_share: UnitInterval = 0.0
    """The share of prompts that the teacher answers, which are imitated; what is imitated and what is distilled are one
    mean over all rows, at coefficients 1 and distill_weight."""
    teacher_temperature: NonNegativeFloat = 0.5
    """The temperature of these answers (paper: 0 to 0.5)."""
    sft_steps: NonNegativeInt = 0
    """Steps of imitating the teacher alone before all else (a stage "sft")."""
    rlvr_steps: NonNegativeInt = 0
    """Steps of GRPO with the privilege in view that make the teacher first (a stage "rlvr")."""

    def __post_init__(self) -> None:
        own = not (self.teacher or self.rlvr_steps)
        compared = self.reinforce != "none" or self.rlvr_steps
        require(
            not compared or self.rollouts.per_prompt >= 2,
            "a reward compares answers: per_prompt must be 2 or more",
        )
        require(not (self.teacher and self.rlvr_steps), "rlvr_steps make the teacher: leave teacher empty")
        require(
            not own or self.shown.privilege != "none",
            "own weights and no privilege teach nothing: set one, or teacher",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        whose = External(self.teacher) if self.teacher else self.own
        return {TEACHER: Role(whose, self.shown.view, self.student_thinking)}

    @property
    def own(self) -> Weights:
        """The own weights that teach, if these do."""
        still = Snapshot(SFT, "start") if self.sft_steps else Frozen()  # frozen: at the start of its stage
        return Snapshot(RLVR) if self.rlvr_steps else Live() if self.weights == "live" else still

    @property
    def stages(self) -> Mapping[str, Recipe]:
        found, how = dict[str, Recipe](), self.optimization
        if self.rlvr_steps:
            longer = replace(how, steps=self.rlvr_steps)
            who = (self.student_thinking, self.grpo, self.shown.view)
            found[RLVR] = InformedGRPO(self.rollouts, longer, self.adapter, *who)
        if self.sft_steps:
            imitating: Any = {"sft_steps": 0, "teacher_share": 1.0, "reinforce": "none"}
            found[SFT] = replace(self, optimization=replace(how, steps=self.sft_steps), **imitating)
        return {**found, "distill": self}

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        start = BASE if self.rlvr_steps and not self.sft_steps else PREVIOUS  # not at the teacher made of it
        return {POLICY: TrainedWeights(start, self.optimization, self.adapter)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        chance, n = tools.random("teacher"), self.rollouts.per_prompt
        taught = [one for one in prompts if chance.random() < self.teacher_share]
        theirs = tools.sample(taught, n, role=TEACHER, temperature=self.teacher_temperature)
        own = tools.sample([one for one in prompts if one not in taught], n)
        return sorted([*own, *theirs], key=lambda one: one.group)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        own = ~stats.origin(TEACHER) if self.teacher_share else torch.ones_like(stats.rows)
        late = (stats.mask.cumsum(dim=1) - 1).to(stats.dtype) / self.rollouts.max_tokens
        part, rest = self.shares(stats, own)
        shared: dict[str, Any] = {"where": own, "mean_over": self.mean_over}
        if self.teacher_share:
            yield NegativeLogLikelihood(name="imitate", coefficient=rest, **{**shared, "where": ~own})
        if self.distill_weight and self.teacher_share < 1:
            near = torch.exp(-self.position_decay * late)
            chosen = {**shared, "weight": near, "coefficient": part * self.distill_weight}
            yield from self.distillation(stats, **chosen)
        if self.eos:
            end, given = stats.token("eos"), {**shared, "weight": late, "coefficient": part * self.eos}
            yield LikelihoodOf(name="eos", token=end, **given)
        if self.reinforce != "none":
            advantage = self.grpo.advantage(stats, self.rewarded(stats))
            yield self.grpo.term("policy", stats, advantage, coefficient=part, **shared)

    def shares(self, stats: Statistics, own: Bool[Tensor, "N"]) -> tuple[float, float]:
        """Which part of the batch's rows are the student's own, and which the teacher's: a term's mean over sequences
        is over its own rows, and the loss is to be one mean over all. A mean over tokens is over all as it stands."""
        if self.mean_over == "tokens" or not 0 < self.teacher_share < 1:
            return 1.0, 1.0
        part = float((own & stats.rows).sum()) / max(1.0, float(stats.rows.sum()))
        return part, 1 - part

    def distillation(self, stats: Statistics, **shared: Any) -> Iterable[Term]:
        """The loss of that name."""
        if self.loss != "ppo":
            return losses(self.loss, TEACHER, self.loss_top_k, self.beta, self.temperature, **shared)
        informed = {TEACHER: "sampled"}
        return [self.grpo.term("distill", stats, self.gained(stats), informed_by=informed, **shared)]

    def gained(self, stats: Statistics) -> Float[Tensor, "N T"]:
        """[N, T] log Q − log P of the sampled tokens (nats), P as it was when it wrote them; 0 where Q saw nothing."""
        return torch.where(stats.seen(TEACHER), stats.log_prob(TEACHER) - stats.behavior_log_prob, 0.0)

    def rewarded(self, stats: Statistics) -> Float[Tensor, "N"]:
        """[N] the reward, with the teacher's liking as a bonus of right answers and a malus of wrong ones."""
        if self.reinforce == "reward":
            return stats.reward
        mean = stats.sequence_mean(self.gained(stats), stats.seen(TEACHER))
        liked = group_min_max(mean, stats.group, stats.available(TEACHER))
        return stats.reward + self.bonus_weight * torch.where(stats.correct, liked, -liked)
