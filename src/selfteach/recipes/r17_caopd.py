"""Self-distillation with the confidence that the student has earned (CaOPD)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *

NUMBER = re.compile(
    r"\s*([01](?:\.\d*+)?+)"  # possessive: no part of a number is one
    r"(?!\w|[.,]\d|\s*(?:[%/]|percent\b|(?:out\s+)?of\b))",
    re.ASCII | re.IGNORECASE,
)
"""A number from 0 to 1 that is not the beginning of another one, a percentage or a fraction."""
EXAMPLE = "{problem}\n\nThis is an example of a response:\n\n{FIELD}\n\n{NOTE}Now answer with a response of your own."
SOLVED = "{problem}\n\nThis is a correct solution:\n\n{FIELD}\n\n{NOTE}Correctly solve the original problem."
NOTE = (
    "You are right on this problem in a share of {rate} of your attempts: state exactly this confidence.\n\n"
)


@settings
class CaOPD(Recipe):
    """Distill what the privileged teacher can do, but not how sure it is.

    "The Illusion of Certainty: Decoupling Capability and Calibration in On-Policy Distillation" (arXiv 2604.16830). The
    student π answers each problem K times and states its confidence; P is the share of the K that are right. In each
    answer, and in the demonstration that the teacher q reads, everything from the stated confidence on is replaced by
    P. On the edited answers ỹ, with q the running average of π:

        L = mean over ỹ of (1/n) Σ_{t > skip} D_α( π(·|x, ỹ_<t), sg q(·|x, demonstration with P, ỹ_<t) )

    over the n tokens behind the first ``skip``. D_α is forward KL(q‖π) at α = 0 (released default), reverse KL(π‖q) at
    1 (the paper's formula), between them GKD's JSD. Nobody sampled an edited answer: no importance ratio enters.
    """

    name = "caopd"
    title = "Calibration-aware On-Policy Distillation"
    source = "https://arxiv.org/abs/2604.16830"
    formula = "mean_ỹ (1/n) Σ_{t>3} KL( q(·|x, z̃, ỹ_<t) ‖ π(·|x, ỹ_<t) ),  stated confidence ← share of right answers"
    numbers = {"confidence": "row"}
    presets = {
        "sdft": {},
        "sdpo": {"demonstration": "sibling"},
        "paper": {"alpha": 1.0},
        "uncalibrated": {"rewrite": "none"},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=2e-5, schedule="cosine", warmup=10)
    demonstration: Literal["gold", "sibling"] = "gold"
    """What the teacher reads: the data's own answer, as SDFT, or the first other right answer of the group, as SDPO."""
    privilege: str = "solution"
    """The private field that holds the data's own answer."""
    rewrite: Literal["both", "completion", "context", "none"] = "both"
    """Where the confidence becomes the share of right answers: in the student's answers and the teacher's context
    (paper), in one of them, or nowhere (the baseline: the demonstration states 1)."""
    marker: str = "Confidence:"
    """What stands before a stated confidence; an answer ends with it and a number in [0, 1]."""
    digits: PositiveInt = 2
    """Decimals of a confidence that is written."""
    alpha: UnitInterval = 0.0
    """0: forward KL(teacher‖student) (released code), 1: reverse KL (the paper's formula), between: GKD's JSD."""
    skip: NonNegativeInt = 3
    """Tokens at an answer's beginning that are not trained on."""
    update_rate: UnitInterval = 0.01
    """Share of the new weights in the teacher's average, an optimizer step."""

    def __post_init__(self) -> None:
        require(bool(self.marker.strip()), "marker is empty: say what stands before a stated confidence")
        require(self.digits <= 9, f"digits is {self.digits}: a confidence has 9 decimals at most")

    @property
    def field(self) -> str:
        return self.privilege if self.demonstration == "gold" else "sibling"

    @property
    def teachers(self) -> Mapping[str, Role]:
        template = EXAMPLE if self.demonstration == "gold" else SOLVED
        note = NOTE if self.rewrite in ("both", "context") else ""
        told = template.replace("{NOTE}", note).replace("{FIELD}", f"{{{self.field}}}")
        weights = EMA(1 - self.update_rate, from_start=True)
        return {TEACHER: Role(weights, Told(told, self.field), self.student_thinking)}

    # --- writing ------------------------------------------------------------------------------------------------

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Answers whose stated confidence is the share of right ones in their group, each with its demonstration."""
        sampled = tools.grade(tools.sample(prompts, self.rollouts.per_prompt))
        groups: dict[int, list[Trajectory]] = {}
        for one in sampled:
            groups.setdefault(one.group, []).append(one)
        rates = {group: sum(one.right for one in own) / len(own) for group, own in groups.items()}
        rows = []
        for one in sampled:
            rate, shown = rates[one.group], self.shown(one, groups[one.group])
            row = self.edited(tools, one, rate) if self.rewrite in ("both", "completion") else one
            said = self.stated(rate if self.rewrite in ("both", "context") else 1.0)
            told = {
                self.field: f"{self.body(shown)}\n{said}" if shown else "",
                "rate": f"{rate:.{self.digits}f}",
            }
            rows.append(row.told(**told).with_numbers(confidence=self.read(one.text)))
        return rows

    def shown(self, one: Trajectory, group: Sequence[Trajectory]) -> str | None:
        if self.demonstration == "sibling":
            return next((other.text for other in group if other.right and other is not one), None)
        known = ", ".join(sorted(one.example.private)) or "no private field"
        found = one.example.private.get(self.privilege)
        require(bool(found), f"example {one.example.key} has no {self.privilege!r} to show; known: {known}")
        return found

    def edited(self, tools: Tools, one: Trajectory, rate: float) -> Trajectory:
        """The answer with ``rate`` as its confidence and the grade it had, cut where it would be too long."""
        body, said = self.body(one.text), f"\n{self.stated(rate)}"
        begin = tools.token_at(one, len(body))
        # A token may hold the body's end and what follows: it is written anew.
        new = tools.edit(one, begin, body[len(tools.text(one.ids[:begin])) :] + said)
        if (excess := len(new.ids) - self.rollouts.max_tokens) > 0:
            new = tools.edit(one, max(0, begin - excess), said)
        return new if one.grade is None else new.graded(one.grade)

    def body(self, text: str) -> str:
        """What stands before the first stated confidence."""
        return text.partition(self.marker)[0].rstrip()

    def stated(self, rate: float) -> str:
        return f"{self.marker} {rate:.{self.digits}f}"

    def read(self, text: str) -> float:
        """The first confidence that the text states; NaN if it states none in [0, 1]."""
        found = NUMBER.match(text.partition(self.marker)[2])
        return float(found[1]) if found and float(found[1]) <= 1 else math.nan

    # --- the loss -----------------------------------------------------------------------------------------------

    def terms(self, stats: Statistics) -> Iterable[Term]:
        said = stats.number("confidence")
        known = stats.rows & ~said.isnan()
        for name, value in calibration(said[known], stats.correct[known]).items():
            stats.report(f"confidence/{name}", value)
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.alpha),
            where=stats.mask & (stats.mask.cumsum(dim=1) > self.skip),
            mean_over=Divisor("selected", "row"),
        )
