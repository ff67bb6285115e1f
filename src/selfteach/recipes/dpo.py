"""The baseline on preferences: direct preference optimization (DPO) and its kin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch

from selfteach.recipes.kit import *


@settings
class DPO(Recipe):
    """Make the preferred answer of a pair likelier against the other one, as seen from where training began.

    "Direct Preference Optimization" (arXiv 2305.18290, eq. 7), for pairs (y_w preferred to y_l) and ρ(y) = log
    π(y)/π_ref(y), sums over an answer's tokens:

        L = mean over pairs of −log σ( β [ ρ(y_w) − ρ(y_l) ] )

    ``pairs`` "data": each row's ``chosen`` and ``rejected`` answer. "rollouts": the k-th right answer of a group before
    its k-th wrong one, fresh at every step. ``loss`` names the other losses of pairs, as TRL does; ``sft_weight`` adds
    the chosen answers' negative log-likelihood.
    """

    name = "dpo"
    title = "Direct Preference Optimization"
    source = "https://arxiv.org/abs/2305.18290"
    formula = "mean_(w,l) −log σ( β [ log π/π_ref (y_w) − log π/π_ref (y_l) ] )"
    presets = {
        "paper": {},
        "online": {"pairs": "rollouts", "per_prompt": 8},
        "ipo": {"loss": "ipo"},
        "rpo": {"sft_weight": 1.0},
    }

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization(lr=1e-6, prompts=64, warmup=150, steps=1000)
    beta: PositiveFloat = 0.1
    """β, how closely the student is held to the reference: the higher, the less it moves for a preference."""
    loss: DPOLoss = "sigmoid"
    """The loss of a pair: DPO's own (sigmoid), or another that TRL has by this name."""
    label_smoothing: UnitInterval = 0.0
    """Probability that a label is wrong, for losses sigmoid (cDPO), robust and exo_pair."""
    sft_weight: NonNegativeFloat = 0.0
    """Weight of the chosen answers' negative log-likelihood, a mean over their tokens (RPO: 1)."""
    pairs: Literal["data", "rollouts"] = "data"
    """Where pairs come from: the data's columns, or right and wrong answers of the student's own."""
    chosen: str = "solution"
    """The private field that holds the data's preferred answer (column ``chosen`` of preference data is read as
    this)."""
    rejected: str = "rejected"
    """The private field that holds the other one."""

    def __post_init__(self) -> None:
        require(
            self.pairs == "data" or self.rollouts.per_prompt >= 2,
            "pairs of rollouts are answers to one prompt: per_prompt must be at least 2",
        )
        try:
            refuse_smoothing(self.loss, self.label_smoothing)
        except ValueError as problem:
            require(False, str(problem))

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)}

    @property
    def temperature(self) -> float:
        """1 where answers are the data's: nothing is sampled."""
        return 1.0 if self.pairs == "data" else self.rollouts.temperature

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.pairs == "rollouts":
            return tools.sample(prompts, self.rollouts.per_prompt)
        for one in prompts:
            require(
                {self.chosen, self.rejected} <= set(one.example.private),
                f"example {one.example.key} lacks {self.chosen!r} or {self.rejected!r}: give rows of prompt, chosen "
                "and rejected, or take right and wrong answers of a group: --pairs rollouts",
            )
        pairs = preferred(tools.quote(prompts, self.chosen), tools.quote(prompts, self.rejected))
        require(
            not pairs or any(one.pair is not None for one in pairs),
            "every pair's chosen and rejected are the same tokens: mend the data, or raise max_tokens, which cuts them",
        )
        return pairs

    def terms(self, stats: Statistics) -> Iterable[Term]:
        make = Pairs.given if self.pairs == "data" else Pairs.of_groups
        pairs = make(stats, stats.whole(REFERENCE))
        yield self.preference(stats, pairs)
        if self.sft_weight:
            chosen = torch.isin(pairs.unit, pairs.chosen)
            yield NegativeLogLikelihood(
                name="sft", where=chosen, mean_over="selected", coefficient=self.sft_weight
            )

    def preference(self, stats: Statistics, pairs: Pairs) -> SequenceTerm:
        sums, reference = stats.unit_sum(pairs.unit), stats.unit_sum(pairs.unit, REFERENCE)
        report_rewards(stats, pairs, self.beta * (sums - reference))
        function = dpo(
            pairs,
            reference,
            beta=self.beta,
            loss=self.loss,
            label_smoothing=self.label_smoothing,
            length=stats.length[pairs.unit >= 0],
        )
        return SequenceTerm(
            name="dpo", unit=pairs.unit, sums=sums, function=function, informed_by={REFERENCE: "sampled"}
        )
