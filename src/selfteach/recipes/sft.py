"""The baseline without a policy of its own: supervised fine-tuning on reference solutions (SFT)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from selfteach.recipes.kit import *


@settings
class SFT(Recipe):
    """Raise the likelihood of the data's reference solutions: L = mean over tokens of −log p(y_t).

    Off-policy imitation, the baseline that OPSD and its successors compare with.
    """

    name = "sft"
    title = "Supervised fine-tuning"
    source = "baseline of OPSD, https://arxiv.org/abs/2601.18734"
    formula = "mean_t −log p(y_t)"
    presets = {"default": {}}
    generates = False

    optimization: Optimization = Optimization(lr=5e-6)
    reference: str = "solution"
    """The private field that is imitated."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of per-example means."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.quote(prompts, self.reference)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over=self.mean_over)
