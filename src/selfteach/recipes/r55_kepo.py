"""GRPO, a teacher's divergence on rollouts that earn enough, and hints where a whole group earns nothing (KEPO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

HINTER, HINTED = "hinter", "hinted"


@settings
class KEPO(Recipe):
    """Reinforce, distill what passes a reward threshold, and rescue prompts at which every rollout failed.

    "KEPO: Knowledge-Enhanced Preference Optimization" (arXiv 2602.00400, eq. 7). r = the task's reward, and
    ``format_reward`` for an answer that can be read; A = (r − group mean) / (group std + ε); student p, frozen external
    teacher q under the same prompt, m = β q + (1 − β) p:

        L = mean over rollouts of (1/|y|) Σ_t −min( ρ A, clip(ρ) A )
          + mean over the tokens of all rollouts with r ≥ τ of  β KL(q‖m) + (1 − β) KL(p‖m)

    Of a prompt of which no rollout earns anything the teacher, which reads the answer, writes a hint. Behind it the
    student writes ``hinted`` answers, again until all are right, ``attempts`` times at most. They replace random
    rollouts of the group as if the bare prompt had been before them: their ρ is 1 until the weights move.
    """

    name = "kepo"
    title = "Knowledge-Enhanced Preference Optimization"
    source = "https://arxiv.org/abs/2602.00400"
    formula = (
        "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ) + mean_{t: r ≥ τ} JSD_β(q ‖ p);  hints where all r = 0"
    )
    sizes = {**Recipe.sizes, "hinted": "group", "hint_tokens": "tokens"}
    numbers = {"readable": "row", "dead": "row", HINTED: "row"}
    presets = {
        "paper": {},
        "hint-only": {"hinted_template": WITH_HINT},
        "kdpo": {"tau": 0.0, "hinted": 0},
        "grpo": {"tau": None, "hinted": 0},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8, temperature=0.9, top_p=0.95)
    optimization: Optimization = Optimization(lr=2e-6, prompts=16, steps=38, schedule="linear")
    grpo: GRPOSettings = GRPOSettings()
    hints: Hints = Hints()
    teacher: str = "Qwen/Qwen3-32B"
    """The larger model of the same tokenizer that is distilled and writes hints: a folder, a hub id or arena:NAME."""
    tau: float | None = 1.0
    """τ, the reward from which a rollout is distilled (0: all are, the paper's KDPO; none: none is)."""
    beta: UnitInterval = 0.5
    """β of the generalized JSD: 0 forward KL, 1 reverse KL (released code: 0.5)."""
    distill_temperature: PositiveFloat | None = 1.0
    """Temperature of both softmaxes of the divergence (1: released code; none: the sampling temperature)."""
    format_reward: NonNegativeFloat = 1.0
    """What an answer earns by being readable, right or wrong, beside the task's reward (0: nothing)."""
    hinted: NonNegativeInt = 2
    """m, answers written behind a hint that replace rollouts of a failed group (0: no hints)."""
    attempts: PositiveInt = 5
    """How often m answers are written behind one hint, at most, until all of them are right."""
    kl: NonNegativeFloat = 0.0
    """Coefficient of the KL to the initial policy (0: no reference is scored)."""

    def __post_init__(self) -> None:
        most = self.rollouts.per_prompt
        require(most >= 2, "kepo compares rollouts of one prompt: per_prompt must be at least 2")
        require(self.hinted <= most, f"hinted is {self.hinted}: a group has {most} rollouts to replace")

    @property
    def reader(self) -> Role:
        return Role(External(self.teacher), Plain(), self.student_thinking)

    @property
    def teachers(self) -> Mapping[str, Role]:
        reference = {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)} if self.kl else {}
        return ({} if self.tau is None else {TEACHER: self.reader}) | reference

    @property
    def writers(self) -> Mapping[str, Role]:
        return {HINTER: self.reader} if self.hinted else {}

    # --- writing ------------------------------------------------------------------------------------------------

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Each prompt's group; where nothing in it earned anything, some slots are answers from behind a hint."""
        groups = by_group(tools.grade(tools.sample(prompts, self.rollouts.per_prompt)))
        dead = {one.group: one for one in prompts if all(self.earned(own) <= 0 for own in groups[one.group])}
        lot = tools.random("slots")
        for group, right in (self.explored(tools, dead) if self.hinted else {}).items():
            for slot, one in zip(lot.sample(range(len(groups[group])), len(right)), right, strict=True):
                groups[group][slot] = behind(dead[group], one)
        return [
            one.with_numbers(
                readable=readable(one), dead=float(one.group in dead), hinted=float(one.origin == HINTED)
            )
            for own in groups.values()
            for one in own
        ]

    def earned(self, one: Trajectory) -> float:
        """r of a graded rollout."""
        return (one.grade.reward if one.grade else 0.0) + self.format_reward * readable(one)

    def explored(self, tools: Tools, dead: Mapping[int, Prompt]) -> dict[int, list[Trajectory]]:
        """Group → ``hinted`` answers from behind the hint, all right; groups where no attempt came to that are
        missing."""
        waiting, found = self.hints.shown(tools, dead, HINTER), dict[int, list[Trajectory]]()
        for _ in range(self.attempts):
            tried = by_group(tools.grade(tools.sample(list(waiting.values()), self.hinted)))
            found |= {group: own for group, own in tried.items() if all(one.right for one in own)}
            waiting = {group: one for group, one in waiting.items() if group not in found}
        return found

    # --- the loss -----------------------------------------------------------------------------------------------

    def terms(self, stats: Statistics) -> Iterable[Term]:
        reward = stats.reward + self.format_reward * stats.number("readable")
        hinted, dead = stats.number(HINTED) > 0, stats.number("dead") > 0
        left = dead & (stats.group_sum(hinted.to(stats.dtype)) == 0)
        columns = {"dead/sampled": dead, "dead/left": left, "reward/total": reward}
        if self.tau is not None:
            columns["gate/open"] = reward >= self.tau
        for name, column in columns.items() if stats.rows.any() else ():
            stats.report(name, column[stats.rows].to(stats.dtype).mean())
        policy = self.grpo.term("policy", stats, self.grpo.advantage(stats, reward), mean_over="sequences")
        yield replace(policy, behavior=behavior_of(stats, hinted)) if hinted.any() else policy
        if self.kl:
            yield Sampled(
                name="kl", target=FromRole(REFERENCE), function=k3, coefficient=self.kl, mean_over="sequences"
            )
        if self.tau is not None:
            yield Match(
                name="distill",
                target=FromRole(TEACHER),
                divergence=gkd_jsd(self.beta),
                temperature=self.distill_temperature or self.temperature,
                where=reward >= self.tau,
                mean_over="selected",
            )


def behavior_of(stats: Statistics, hinted: Bool[Tensor, "N"]) -> Float[Tensor, "N T"]:
    """[N, T] log-probs (nats) of ρ's denominator: the sampler's; of ``hinted`` [N] rows, which nobody sampled behind
    the bare prompt, the student's own before the first update."""
    return torch.where(hinted.unsqueeze(1), stats.old_log_prob(), stats.behavior_log_prob)


def readable(one: Trajectory) -> float:
    """1 where a final answer was found in the form that was asked for, before the length limit."""
    return float(outcome(one.grade, one.finished) in ("right", "wrong"))


def behind(prompt: Prompt, one: Trajectory) -> Trajectory:
    """The answer as if the bare prompt had been before it."""
    return Trajectory.written(
        prompt.example, prompt.prompt_ids, one.ids, one.text, group=prompt.group, finished=one.finished, origin=HINTED,
        grade=one.grade, temperature=one.temperature,
    )  # fmt: skip
