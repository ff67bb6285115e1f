"""The baseline on single judgements: Kahneman-Tversky optimization (KTO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

MISMATCHED = "mismatched"
"""Who wrote, and what marks, an answer that stands behind another prompt than its own."""


@settings
class KTO(Recipe):
    """Make good answers likelier and bad ones less likely, each by itself, against a point of reference.

    "KTO: Model Alignment as Prospect Theoretic Optimization" (arXiv 2402.01306, eq. 7–8). With ρ(y) = log
    π(y)/π_ref(y), a sum over an answer's tokens, and without gradient z₀ = max(0, mean of ρ over the step's answers,
    each behind another prompt), which estimates KL(π‖π_ref) in nats:

        L = mean over answers of λ_D [ 1 − σ( β (ρ − z₀) ) ] for a good one, λ_U [ 1 − σ( β (z₀ − ρ) ) ] for a bad one

    ``labels`` "data": each row's answer and whether it is good. "rollouts": fresh answers, good where the verifier says
    right. An answer's reward is its label.
    """

    name = "kto"
    title = "Kahneman-Tversky Optimization"
    source = "https://arxiv.org/abs/2402.01306"
    formula = "mean_y λ_y [ 1 − σ( ±β ( log π/π_ref (y) − z₀ ) ) ]"
    presets = {
        "paper": {},
        "online": {"labels": "rollouts", "per_prompt": 4},
        "apo-zero": {"loss": "apo_zero_unpaired"},
    }

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization(lr=5e-7, prompts=32, warmup=150, steps=1000)
    beta: PositiveFloat = 0.1
    """β, how soon a gain over the reference counts for less."""
    desirable_weight: NonNegativeFloat = 1.0
    """λ_D, weight of good answers (the paper advises λ_D · good : λ_U · bad between 1:1 and 4:3)."""
    undesirable_weight: NonNegativeFloat = 1.0
    """λ_U, weight of bad answers."""
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """The paper's, or the same with z₀ = 0 (APO-zero, as TRL calls it), which needs no mismatched answers."""
    labels: Literal["data", "rollouts"] = "data"
    """Where judgements come from: the data's columns, or the verifier's of fresh answers."""
    completion: str = "completion"
    """The private field that holds the data's answer."""
    label: str = "label"
    """The private field that says whether it is good: true or false."""

    def __post_init__(self) -> None:
        require(
            self.desirable_weight + self.undesirable_weight > 0,
            "desirable_weight and undesirable_weight are both 0: nothing is learned",
        )
        require(
            self.loss != "kto" or self.optimization.prompts >= 2,
            "kto estimates z₀ by answers behind other prompts: set prompts to 2 at least, or loss apo_zero_unpaired",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)}

    @property
    def temperature(self) -> float:
        """1 where answers are the data's: nothing is sampled."""
        return 1.0 if self.labels == "data" else self.rollouts.temperature

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.labels == "rollouts":
            each = self.rollouts.per_prompt
            judged = tools.grade(tools.sample(prompts, each))
        else:
            each = 1
            lacking = [one for one in prompts if self.completion not in one.example.private]
            require(
                not lacking,
                f"an example has no {self.completion!r}: give rows of prompt, completion and label with --unpaired, "
                "or take the verifier's labels: --labels rollouts",
            )
            judged = [self.labeled(one) for one in tools.quote(prompts, self.completion)]
        return judged if self.loss != "kto" else [*judged, *mismatched(judged, each)]

    def labeled(self, one: Trajectory) -> Trajectory:
        said = one.example.private.get(self.label, "").strip().casefold()
        require(
            said in ("true", "false"),
            f"example {one.example.key}: field {self.label!r} is {said!r}: write true or false",
        )
        return one.graded(Grade(float(said == "true")))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        usable, baseline = stats.whole(REFERENCE), torch.zeros((), dtype=stats.dtype, device=stats.ids.device)
        if self.loss == "kto":
            other = stats.mark(MISMATCHED).any(dim=1)
            baseline = mismatched_kl(stats, usable & other, REFERENCE)
            usable = usable & ~other
            stats.report("kto/kl", baseline)
        unit = units_of(usable)
        sums, reference, good = stats.unit_sum(unit), stats.unit_sum(unit, REFERENCE), stats.correct[usable]
        report(stats, self.beta * (sums - reference), good)
        function = kto(
            good,
            reference,
            baseline=baseline,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        yield SequenceTerm(
            name="kto", unit=unit, sums=sums, function=function, informed_by={REFERENCE: "sampled"}
        )


def mismatched(answers: Sequence[Trajectory], each: int) -> list[Trajectory]:
    """Every answer behind the next other prompt, at least ``each`` answers further on. UserError if there is one prompt
    only."""
    require(
        len({one.example.key for one in answers}) != 1,
        "kto estimates z₀ by answers behind other prompts, but a process has one prompt: raise prompts",
    )
    turned = [[*answers[i + each :], *answers[: i + each]] for i in range(len(answers))]
    behind = [
        next(other for other in others if other.example.key != one.example.key)
        for one, others in zip(answers, turned, strict=True)
    ]
    return [
        replace(
            one,
            example=replace(other.example, private={}),
            prompt_ids=other.prompt_ids,
            segments=tuple(replace(part, author=MISMATCHED, behavior=[]) for part in one.segments),
            marks={MISMATCHED: [True] * len(one.ids)},
            origin=MISMATCHED,
        )
        for one, other in zip(answers, behind, strict=True)
    ]


def report(stats: Statistics, reward: Float[Tensor, "U"], good: Bool[Tensor, "U"]) -> None:
    """The mean implicit reward of either kind, by TRL's names."""
    for name, kind in (("chosen", good), ("rejected", ~good)):
        if kind.any():
            stats.report(f"rewards/{name}", reward[kind].mean())
