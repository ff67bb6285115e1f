"""One answer of a teacher as the only known good one; the student judges its own against it (PU-RL)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *
from selfteach.recipes.sft import SFT

JUDGE = "judge"
ASK = Told(
    "{problem}\n\n--- a good answer ---\n{anchor}\n--- the answer to be judged ---\n{attempt}\n--- end ---\n\n"
    "How good is the second answer beside the first, from 0 to 10? Write the number only.",
    JUDGE,
)
NUMBER = re.compile(r"(?:(?<![\w.,])[-\u2212\u2013])?\d+(?:[.,]\d+)*%?", re.ASCII)
SCALE = re.compile(r"\s*(?:/|(?:out\s+)?of)\s*10\b(?!\.?\d)", re.ASCII | re.IGNORECASE)


@settings
class PURL(Recipe):
    """Imitate the anchors, then reinforce those of one's own answers that one judges best beside the anchor.

    "Positive-Unlabeled Reinforcement Learning Distillation" (arXiv 2601.20687; formulas inferred from its abstract).
    Stage "imitate" is fine-tuning on the anchors, one answer of a teacher for each prompt. Then the student π writes G
    answers y_i, scores them e_i beside the anchor, and with d_i = softmax over the group of e_i / τ

        ldl    GRPO with reward d_i, in the loss kl · k3(π, π_SFT)          grpo    with reward e_i
        dpo    −log σ( β [ log π/π_SFT(y⁺) − log π/π_SFT(y⁻) ] ), y⁺ the best (or the anchor), y⁻ the worst

    Rows whose verdict cannot be read take no part, as if they had not been written: they count in no mean, deviation or
    number of answers. An empty answer is judged 0. Equal scores give no gradient.
    """

    name = "pu-rl"
    title = "Positive-Unlabeled RL Distillation"
    source = "https://arxiv.org/abs/2601.20687"
    formula = "GRPO with reward softmax_i( e_i/τ ),  e_i = judge(x, anchor, y_i)"
    sizes = {**Recipe.sizes, "imitate_steps": "steps"}
    numbers = {"score": "row", "judged": "row"}
    presets = {"ldl": {}, "grpo": {"update": "grpo"}, "dpo": {"update": "dpo"}}

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=1e-6, prompts=32)
    grpo: GRPOSettings = GRPOSettings()
    anchor: str = "solution"
    """The private field that holds the teacher's answer."""
    imitate_steps: NonNegativeInt = 100
    """Steps of stage "imitate" (not stated; 0: the model given was fine-tuned already)."""
    imitate_lr: PositiveFloat = 5e-6
    """Its learning rate (not stated)."""
    update: Literal["ldl", "grpo", "dpo"] = "ldl"
    """What the scores become: a label distribution, rewards as they are, or pairs."""
    judge: Literal["self", "likelihood", "verifier"] = "self"
    """Who scores: the student, asked for a number; its likelihood of the answer with the anchor in view; or the task's
    verifier, in place of a judge."""
    judge_errors: UnitInterval = 0.0
    """How often a verdict of judge "verifier" is turned round, to see what a bad judge costs."""
    judge_tokens: PositiveInt = 4
    """Longest verdict, in tokens."""
    label_temperature: PositiveFloat = 1.0
    """τ of the label distribution, in units of the score (to 0: the best takes all)."""
    chosen: Literal["best", "anchor"] = "best"
    """What is preferred in a pair: the best of the student's own, or the anchor."""
    beta: PositiveFloat = 0.1
    """β of update "dpo"."""
    kl: NonNegativeFloat = 0.04
    """Coefficient of the KL to the fine-tuned policy, of the others."""

    def __post_init__(self) -> None:
        require(self.rollouts.per_prompt >= 2, "pu-rl compares answers: per_prompt must be at least 2")

    @property
    def stages(self) -> Mapping[str, Recipe]:
        if not self.imitate_steps:
            return {"train": self}
        first = replace(self.rollouts, per_prompt=1)
        how = replace(self.optimization, lr=self.imitate_lr, steps=self.imitate_steps)
        sft = SFT(first, how, self.adapter, self.student_thinking, reference=self.anchor)
        return {"imitate": sft, "train": self}

    @property
    def teachers(self) -> Mapping[str, Role]:
        plain = Role(Frozen(), Plain(), self.student_thinking)
        return {REFERENCE: plain} if self.kl or self.update == "dpo" else {}

    @property
    def writers(self) -> Mapping[str, Role]:
        own = Role(Live(), Field(self.anchor), self.student_thinking)
        return {JUDGE: own} if self.judge == "likelihood" else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, self.rollouts.per_prompt)
        scores = self.scores(tools, written)
        rows = [
            one.with_numbers(score=score or 0.0, judged=float(score is not None))
            for one, score in zip(written, scores, strict=True)
        ]
        if self.update == "dpo" and self.chosen == "anchor":
            top = max((score for score in scores if score is not None), default=0.0) + 1
            rows += [one.with_numbers(score=top, judged=1.0) for one in tools.quote(prompts, self.anchor)]
        return sorted(rows, key=lambda one: one.group)

    def scores(self, tools: Tools, written: Sequence[Trajectory]) -> list[float | None]:
        """e_i of each answer; None where the verdict cannot be read, or leaves no room. The student is not asked how
        good it is to say nothing: 0."""
        if self.judge == "verifier":
            chance = tools.random(JUDGE)
            right = [one.right for one in tools.grade(written)]
            return [float(its != (chance.random() < self.judge_errors)) for its in right]
        if self.judge == "likelihood":
            found = tools.log_probs(written, JUDGE)
            return [mean_of(own) for own in found]
        spoken = [one for one in written if one.text.strip()]
        told = [one.told(anchor=one.example.private.get(self.anchor, "")) for one in spoken]
        asked = [tools.prompt(one, ASK, self.judge_tokens) for one in told]
        said = tools.sample([one for one in asked if one], max_tokens=self.judge_tokens, temperature=0.0)
        verdicts = iter([verdict(one.text) for one in said])
        judged = iter([next(verdicts) if one else None for one in asked])
        return [next(judged) if one.text.strip() else 0.0 for one in written]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        score, judged = (stats.number(name).to(stats.dtype) for name in self.numbers)
        if not (score + judged)[stats.rows].isfinite().all():
            raise ValueError("score or judged is NaN or infinite at some row")
        judged = (judged >= 0.5) & stats.rows
        if self.update == "dpo":
            yield self.preferred(stats, score, judged & stats.available(REFERENCE))
            return
        if self.update == "ldl":
            score = group_softmax(score / self.label_temperature, stats.group, judged)
        advantage = self.grpo.advantage(stats, score, judged)
        yield self.grpo.term("policy", stats, advantage, where=judged, mean_over="sequences")
        if self.kl:
            near = FromRole(REFERENCE)
            yield Sampled(name="kl", target=near, function=k3, coefficient=self.kl, mean_over="sequences")

    def preferred(self, stats: Statistics, score: Float[Tensor, "N"], judged: Bool[Tensor, "N"]) -> Term:
        """The best of each group before its worst, where the two differ."""
        rank, worst = (group_rank(sign * score, stats.group, judged) for sign in (1, -1))
        differ = group_max(score, stats.group, judged) > -group_max(-score, stats.group, judged)
        best, last = (((place == 0) & differ).nonzero().squeeze(1) for place in (rank, worst))
        best, last = (rows[stats.group[rows].argsort()] for rows in (best, last))
        pairs = Pairs.of(len(stats.group), best, last)
        sums, reference = (stats.unit_sum(pairs.unit, role) for role in (STUDENT, REFERENCE))
        function = dpo(pairs, reference, beta=self.beta)
        informed: Mapping[str, Signal] = {REFERENCE: "sampled"}
        return SequenceTerm(name="dpo", unit=pairs.unit, sums=sums, function=function, informed_by=informed)


def verdict(text: str) -> float | None:
    """The last number of a text, if it lies within 0 and 10; the 10 of "7 of 10" or "7/10" is none."""
    found = NUMBER.findall(SCALE.sub("", text))
    if not found or not re.fullmatch(r"[\d.]+", found[-1]) or found[-1].count(".") > 1:
        return None
    return float(found[-1]) if float(found[-1]) <= 10 else None


def mean_of(log_probs: Sequence[float]) -> float | None:
    """The mean in nats a token; None of no token, or where the anchor could not be shown (NaN)."""
    mean = sum(log_probs) / len(log_probs) if log_probs else math.nan
    return mean if math.isfinite(mean) else None
