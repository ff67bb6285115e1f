"""The baseline without a policy of its own: supervised fine-tuning on reference solutions (SFT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.base import Optimization, Recipe
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class SFT(Recipe):
    """Raise the likelihood of the data's reference solutions: L = mean over tokens of −log p(y_t).

    Off-policy imitation, the baseline that card 01 and its successors compare with.
    """

    title = "Supervised fine-tuning"
    source = "baseline of card 01"
    generates = False
    formula = "mean_t −log p(y_t)"

    optimization: Optimization = field(default_factory=lambda: Optimization(lr=5e-6))
    reference: str = "solution"
    """The private field that is imitated."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of per-example means."""

    @classmethod
    def presets(cls) -> Mapping[str, SFT]:
        paper = cls()
        return {
            "default": paper,
            "arena": replace(
                paper,
                rollouts=replace(paper.rollouts, max_tokens=64),
                optimization=Optimization(lr=3e-4, steps=300, prompts=64),
            ),
        }

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.quote(prompts, self.reference)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over=self.mean_over)
