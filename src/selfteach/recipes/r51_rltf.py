"""Two-turn reinforcement learning from criticism that ends in a better first turn (RLTF)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

AGAIN = Told(
    "{problem}\n\n--- your earlier attempt ---\n{attempt}\n--- what a critic says of it ---\n{feedback}\n--- end ---"
    "\n\nSolve the problem anew. Answer as if this were your first attempt, without a word about the critic.",
    name="feedback",
)


@settings
class RLTF(Recipe):
    """Criticize a wrong attempt, let the model try again, and teach its first turn what the second one knew.

    "Expanding the Capabilities of Reinforcement Learning via Text Feedback" (arXiv 2602.02482). Behind the question x0
    the model writes y0; where that is wrong a critic says c, and behind x1 = (x0, y0, c) it writes y1. With rewards r0
    and r1 of one trajectory and means over the group's trajectories that have the turn,

        policy:    −Σ_t A log π(y_t | x),    A = R − mean R of that turn,    R0 = r0 + γ r1,  R1 = r1
        revision:  −β (r1 − mean r0) Σ_t 1[log π(y1_t | x0) ≥ −5] log π(y1_t | x0)       (RLTF-SD)
        critique:  −λ Σ_t log π(c_t | x0, y0, "criticize")                               (RLTF-FM)

    all divided by the number of rows of the batch. The baseline of the revision is the *first* turn's mean: that of the
    second vanishes as soon as all second turns are right.
    """

    name = "rltf"
    title = "Reinforcement Learning from Text Feedback (RLTF-SD, RLTF-FM)"
    source = "https://arxiv.org/abs/2602.02482"
    formula = "−Σ A log π(y|x) − β (r(y1) − mean r(y0)) Σ m log π(y1|x0) − λ Σ log π(c|x0, y0)"
    sizes = {**Recipe.sizes, "critique_tokens": "tokens"}
    numbers = {"turn": "row", "policy": "row", "revision": "row", "critique": "row"}
    presets = {
        "sd": {},
        "sd-math": {"revision_schedule": "linear"},
        "fm": {"revision_weight": 0.0, "critique_weight": 0.1},
        "two-turn-grpo": {"revision_weight": 0.0},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8096)
    optimization: Optimization = Optimization(lr=2e-5, prompts=32)
    adapter: Adapter = Adapter(lora_rank=32, lora_alpha=32)
    criticism: Critic = Critic()
    gamma: UnitInterval = 0.1
    """γ, what a first turn earns of the reward of the second (0: the turns are apart)."""
    format_penalty: NonNegativeFloat = 0.1
    """Taken off the reward of an answer that cannot be read."""
    revision_weight: NonNegativeFloat = 0.1
    """β, weight of the second turn retold as the first (0: none)."""
    revision_schedule: Literal["constant", "linear"] = "constant"
    """β from the start (puzzles), or risen from 0 in a line over the steps (DAPO's mathematics)."""
    revision_baseline: Literal["first", "second", "none"] = "first"
    """What the second turn's reward is held against: the mean of the first turns (paper), of the second ones, or none:
    right answers alone are imitated (its baseline "sft")."""
    revision_ratio: Literal["none", "token"] = "none"
    """Weigh a retold token by π(y1|x0) / π(y1|x1): not (paper), or so (ablation)."""
    revision_cap: PositiveFloat | None = 1.2
    """Cap on that ratio (none: no cap)."""
    min_log_prob: float | None = -5.0
    """Tokens that are less likely than this (nats) behind the question are not retold (none: all are)."""
    critique_weight: NonNegativeFloat = 0.0
    """λ, weight of predicting the critique; of critic "self", of reinforcing it by what the second turn made of it."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "rltf compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def dual(self) -> bool:
        """Whether the critiques are the model's own, to be reinforced."""
        return self.criticism.critic == "self"

    @property
    def writers(self) -> Mapping[str, Role]:
        return self.criticism.writers(self.student_thinking)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """First turns, second turns behind the critique, these retold behind the question, and critiques."""
        first = tools.grade(tools.sample(prompts, self.rollouts.per_prompt))
        said = self.criticism.criticized(tools, first)
        asked = asked_of(tools, {i: first[i].told(feedback=one.text) for i, one in said.items()}, AGAIN)
        second = dict(zip(asked, tools.grade(tools.sample(list(asked.values()))), strict=True))
        r0 = {i: self.reward(one) for i, one in enumerate(first)}
        r1 = {i: self.reward(one) for i, one in second.items()}
        group = [one.group for one in first]
        earned = centered({i: r + self.gamma * r1.get(i, 0.0) for i, r in r0.items()}, group)
        gained = centered(r1, group)
        rows = [kind(one, turn=1, policy=earned[i]) for i, one in enumerate(first)]
        for i, again in second.items():
            base = {"first": r0, "second": r1, "none": {}}[self.revision_baseline]
            better = r1[i] - mean_of(base, group, group[i]) if base else float(again.right)
            rows.append(kind(again, turn=2, policy=gained[i]))
            if self.revision_weight:
                rows.append(kind(self.retold(first[i], again), revision=better))
            if self.critique_weight:
                # A critique counts for what the second turn made of it, where anybody asks for a grade.
                part = {"policy": self.critique_weight * gained[i]} if self.dual else {"critique": 1.0}
                rows.append(kind(replace(said[i], grade=again.grade), **part))
        return rows

    def retold(self, first: Trajectory, second: Trajectory) -> Trajectory:
        """The second turn as if it had been the first."""
        return Trajectory.written(
            first.example, first.prompt_ids, second.ids, second.text, group=first.group, finished=second.finished,
            behavior=None if self.revision_ratio == "none" else second.behavior, origin="revision", grade=second.grade,
        )  # fmt: skip

    def reward(self, one: Trajectory) -> float:
        unread = outcome(one.grade) in ("no answer", "unparseable")
        return (one.grade.reward if one.grade else 0.0) - self.format_penalty * unread

    def terms(self, stats: Statistics) -> Iterable[Term]:
        policy, revision, critique = (stats.number(name) for name in ("policy", "revision", "critique"))
        rows = max(1.0, float(stats.rows.sum()))
        for name, turn in (("reward/first", 1), ("reward/second", 2)):
            if (written := stats.number("turn") == turn).any():
                stats.report(name, stats.reward[written].mean())
        ratio = stats.importance()
        yield PolicyGradient(name="policy", advantage=policy, where=policy != 0, gate=ratio, mean_over=rows)
        if weight := self.strength(stats.step):
            yield self.revised(stats, revision, weight, rows)
        if self.critique_weight and not self.dual:
            yield NegativeLogLikelihood(
                name="critique", where=critique != 0, coefficient=self.critique_weight, mean_over=rows
            )

    def strength(self, step: int) -> float:
        """β at ``step`` = 0, 1, 2 …"""
        risen = step / self.optimization.steps if self.revision_schedule == "linear" else 1.0
        return self.revision_weight * min(1.0, risen)

    def revised(self, stats: Statistics, advantage: Float[Tensor, "N"], weight: float, rows: float) -> Term:
        """The second turn's likelihood behind the question."""
        ratio = stats.importance(self.revision_cap) if self.revision_ratio == "token" else None

        def gate(at: Positions) -> Float[Tensor, "P"]:
            own = at.sampled(STUDENT, self.temperature)
            bound = -torch.inf if self.min_log_prob is None else self.min_log_prob
            return (own >= bound).to(own.dtype) * (1.0 if ratio is None else ratio(at))

        return PolicyGradient(
            name="revision",
            advantage=advantage,
            where=advantage != 0,
            gate=At(gate),
            coefficient=weight,
            mean_over=rows,
        )


def kind(one: Trajectory, **numbers: float) -> Trajectory:
    """The row with what each term makes of it (0: nothing), and which ``turn`` it is as it was sampled."""
    return one.with_numbers(**{name: numbers.get(name, 0.0) for name in RLTF.numbers})


def mean_of(values: Mapping[int, float], group: Sequence[int], which: int) -> float:
    """The mean over the turns of one group."""
    own = [value for i, value in values.items() if group[i] == which]
    return sum(own) / len(own)


def centered(values: Mapping[int, float], group: Sequence[int]) -> dict[int, float]:
    """Each turn's value less the mean over its group."""
    return {i: value - mean_of(values, group, group[i]) for i, value in values.items()}
