"""Continual learning from demonstrations by a model that has one before it (SDFT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *

DEMONSTRATION = (
    "{{problem}}\n\n"
    "Here is how somebody answered this:\n"
    "--- demonstration ---\n{{{field}}}\n--- end of the demonstration ---\n\n"
    "Now give an answer of your own, with all the thinking that leads to it."
)


@settings
class SDFT(Recipe):
    """Pull the student to itself with a demonstration in its context, on the student's own tokens.

    "Self-Distillation Enables Continual Learning" (arXiv 2601.19897). The student p answers the bare question x; the
    teacher q, an average of the student's own weights, reads a demonstration c as well and scores those tokens:

        L = mean over rollouts of the mean over t > ``skip_tokens`` of KL( p(·|x, y_<t) ‖ q(·|x, c, y_<t) )

    over the full vocabulary, gradient through p only. Fine-tuning on c itself would be off-policy, and forgets more.
    """

    name = "sdft"
    title = "Self-Distillation Fine-Tuning"
    source = "https://arxiv.org/abs/2601.19897"
    formula = "mean_y mean_{t>skip} KL( p(·|x) ‖ q_EMA(·|x, demonstration) )"
    presets = {
        "paper": {},
        "released": {"beta": 0.0},
        "trl": {"weights": "frozen", "skip_tokens": 0, "mean_over": "tokens"},
    }

    rollouts: Rollouts = Rollouts(max_tokens=1024)
    optimization: Optimization = Optimization(lr=2e-5, prompts=32, schedule="cosine", warmup=10)
    teacher_thinking: bool | None = None
    """Thinking flag of the teacher's chat template (none: the template's own default)."""
    demonstration: str = "solution"
    """The private field that holds the demonstration."""
    weights: Literal["ema", "frozen", "live"] = "ema"
    """Whose weights teach: an average of the student's (paper), the initial ones (TRL's default), or the current."""
    ema_decay: UnitInterval = 0.99
    """Decay of the average, a step (1 − α; paper: α of 0.01, 0.02, 0.05); used with ``--weights ema``."""
    beta: UnitInterval = 1.0
    """1: reverse KL(p‖q) (paper's formula), 0: forward KL(q‖p) (released code's default), between: JSD (TRL's
    distillation_alpha)."""
    student_top_k: PositiveInt | None = None
    """Compare on the student's k likeliest tokens and a bucket for all others (TRL's option; none: full vocabulary)."""
    skip_tokens: NonNegativeInt = 3
    """Tokens at the beginning of an answer that teach nothing, where the teacher speaks of its demonstration (released
    code: 3)."""
    generate_from_teacher: bool = False
    """Let the teacher write the answers (TRL's option: off-policy), in the place of the student."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-rollout token means, or mean over all tokens."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        whose: Mapping[str, Weights] = {
            "ema": EMA(self.ema_decay, from_start=True), "frozen": Frozen(), "live": Live(),
        }  # fmt: skip
        shown = Field(self.demonstration, DEMONSTRATION)
        return {TEACHER: Role(whose[self.weights], shown, self.teacher_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        writer = TEACHER if self.generate_from_teacher else STUDENT
        return tools.sample(prompts, self.rollouts.per_prompt, role=writer)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.beta),
            support=likeliest(self.student_top_k, of="student", tail="bucket"),
            where=stats.mask & (stats.mask.cumsum(dim=1) > self.skip_tokens),
            mean_over=Divisor("selected", "row") if self.mean_over == "sequences" else "selected",
        )
