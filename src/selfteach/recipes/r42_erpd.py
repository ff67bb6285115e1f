"""A policy driven to an extreme on stored answers, whose log-ratio is then distilled into the base (ERPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class Extreme(Recipe):
    """The first stage of a round of ERPD: many loosely bound updates on the round's stored answers.

    A = the group-relative advantage, times ``sign`` (−1: unlearn). "policy-gradient": L = mean over tokens of −ρ A, of
    unbounded ratio ρ = π/π_0 unless ``clip`` bounds it. "mse": L = mean over answers of (β mean_t log π/π_0 − A)².
    """

    title = "Extreme region of ERPD"
    source = "https://arxiv.org/abs/2605.25582"
    formula = "mean_t −(π/π_0) A,  or  mean_y ( β mean_t log π/π_0 − A )²"

    grpo: GRPOSettings = GRPOSettings()
    loss: Literal["policy-gradient", "mse"] = "policy-gradient"
    """What drives the policy to its extreme."""
    clip: PositiveFloat | None = None
    """PPO's bound on ρ: beyond 1 ± clip a token has no gradient in the direction that its advantage pushes, a clip of 1
    or more bounding above only (none: unbounded)."""
    beta: PositiveFloat = 1.0
    """β of "mse": what a nat of the answer's mean log-ratio is worth in advantage."""
    sign: Literal[1, -1] = 1
    """1: learn what was rewarded; −1: unlearn it."""
    answers: str = ""
    """The store of the round's answers."""

    @property
    def store(self) -> str | None:
        return self.answers or None

    def terms(self, stats: Statistics) -> Iterable[Term]:
        advantage = self.sign * self.grpo.advantage(stats)
        if self.loss == "mse":
            yield self.regression(stats, advantage)
            return
        # The surrogate even where nothing is clipped: the ratio is what makes it off-policy.
        bounds = (1.0, float("inf")) if self.clip is None else (min(1.0, self.clip), self.clip)
        yield PolicyGradient(
            name="extreme", advantage=advantage, behavior=stats.behavior_log_prob, clip=bounds
        )

    def regression(self, stats: Statistics, advantage: Float[Tensor, "N"]) -> Term:
        """(β · mean over the answer of log π/π_0 − A)², mean over answers with a token."""
        written = stats.rows & (stats.length > 0)
        unit = torch.where(written, written.cumsum(0) - 1, -1)
        start = stats.sequence_mean(stats.behavior_log_prob)[written]
        length, target = stats.length[written], advantage[written]

        def loss(sums: Float[Tensor, "U"]) -> Float[Tensor, ""]:
            return (self.beta * (sums / length - start) - target).square().sum() / max(1, len(target))

        return SequenceTerm(name="extreme", unit=unit, sums=stats.unit_sum(unit), function=loss)


@settings
class ERPD(Recipe):
    """Squeeze stored answers with loosely bound updates, then distill what the weights learned, not the weights.

    "Extreme Region Policy Distillation" (arXiv 2605.25582). A round: π_0 answers ``stored`` prompts once; ``Extreme``
    trains a copy far off on them, π_T. The base, or from the second round on what the last one left, takes back
    its place, and on the same answers moves within a trust region along the copy's log-ratio:

        δ_t = ± ( log π_T(y_t) − log π_0(y_t) )         without gradient, in nats; − where π_T was made to unlearn
        L = mean over tokens of −min( r δ, clip(r, 1 − clip_low, 1 + clip_high) δ ) + kl · KL(π‖π_0),    r = π/π_0

    π_0's log-probs are those of the sampling. δ = 0 wherever π_T = π_0. What the paper calls its losses was not
    to be had: both stages' forms are inferred, and numbers but ``stored`` and ``per_prompt`` are ours.
    """

    name = "erpd"
    title = "Extreme Region Policy Distillation"
    source = "https://arxiv.org/abs/2605.25582"
    formula = "mean_t −min( r δ, clip(r) δ ),  δ = log π_extreme/π_0,  r = π/π_0"
    sizes = {**Recipe.sizes, "extreme_steps": "steps"}
    presets = {"paper": {}, "released": {"extreme": "unlearned", "extreme_loss": "mse"}}

    rollouts: Rollouts = Rollouts(per_prompt=16, max_tokens=16384, stored=1000)
    optimization: Optimization = Optimization(lr=1e-6, steps=20, prompts=100)
    grpo: GRPOSettings = GRPOSettings()
    rounds: PositiveInt = 3
    """Rounds of answering, squeezing and distilling; each begins where the last one's distillation ended."""
    extreme: Literal["learned", "unlearned"] = "learned"
    """Drive the copy toward what was rewarded, or away from it, with the sign of δ turned (released models)."""
    extreme_loss: Literal["policy-gradient", "mse"] = "policy-gradient"
    """What drives the copy: the ratio times the advantage, or a regression of its log-ratio to the advantage."""
    extreme_beta: PositiveFloat = 1.0
    """β of extreme_loss mse: what a nat of an answer's mean log-ratio is worth in advantage (ours)."""
    extreme_clip: PositiveFloat | None = None
    """PPO's clip of the ratio while the copy is driven off (none: unbounded; ours)."""
    extreme_steps: PositiveInt = 200
    """Steps that drive the copy off, a round: how extreme it gets (ours: 20 passes over the answers)."""
    extreme_lr: PositiveFloat = 5e-6
    """Peak learning rate of these steps (ours)."""
    kl: NonNegativeFloat = 0.0
    """Coefficient of KL(π‖π_0) beside the clip, over the whole vocabulary (0: π_0 is not scored)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored > 0, "stored is 0: both stages of a round learn from the same stored answers"
        )
        require(
            self.rollouts.per_prompt > 1, "per_prompt is 1: an answer is compared with others to its prompt"
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        found: dict[str, Recipe] = {}
        for i in range(1, self.rounds + 1):
            last = self if i == self.rounds else replace(self, rounds=i)
            found |= {f"extreme-{i}": last.squeezing(), f"distill-{i}": last}
        return found

    def squeezing(self) -> Recipe:
        """The stage before this one."""
        return Extreme(
            rollouts=self.rollouts,
            optimization=replace(self.optimization, lr=self.extreme_lr, steps=self.extreme_steps),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            grpo=self.grpo,
            loss=self.extreme_loss,
            clip=self.extreme_clip,
            beta=self.extreme_beta,
            sign=1 if self.extreme == "learned" else -1,
            answers=self.store,
        )

    @property
    def store(self) -> str:
        return f"round-{self.rounds}"

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        start = BASE if self.rounds == 1 else f"{END}distill-{self.rounds - 1}"
        return {POLICY: TrainedWeights(start, self.optimization, self.adapter)}

    @property
    def teachers(self) -> Mapping[str, Role]:
        view = Plain()
        extreme = Role(Snapshot(f"extreme-{self.rounds}"), view, self.student_thinking, signal="sampled")
        reference = {REFERENCE: Role(Frozen(), view, self.student_thinking)} if self.kl else {}
        return {TEACHER: extreme, **reference}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        gained = stats.log_prob(TEACHER) - stats.behavior_log_prob
        delta = gained if self.extreme == "learned" else -gained
        yield self.grpo.term("distill", stats, delta, informed_by={TEACHER: "sampled"})
        if self.kl:
            yield Match(name="kl", target=FromRole(REFERENCE), divergence=ReverseKL(), coefficient=self.kl)
