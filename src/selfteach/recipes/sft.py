"""The baseline without a policy of its own: supervised fine-tuning (SFT) on reference solutions or a teacher's text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from selfteach.recipes.kit import *


@settings
class SFT(Imitate):
    """Raise the likelihood of given text, y: L = mean over tokens of −log p(y_t).

    Off-policy imitation, the baseline that OPSD and its successors compare with: of the data's reference solutions, or
    of what another model answers to the same prompts ("Sequence-Level Knowledge Distillation", arXiv 1606.07947).
    """

    name = "sft"
    title = "Supervised fine-tuning"
    source = "baseline of OPSD, https://arxiv.org/abs/2601.18734"
    formula = "mean_t −log p(y_t)"
    presets = {"default": {}}

    optimization: Optimization = Optimization(lr=5e-6)
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of per-example means."""

    def __post_init__(self) -> None:
        self.black_box.servers(self.teacher)
        require(
            not self.teacher or self.reference == "solution",
            f"the teacher writes what is imitated, and reference {self.reference} would do nothing: leave one out",
        )

    @property
    def generates(self) -> bool:
        return bool(self.teacher)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over=self.mean_over)
