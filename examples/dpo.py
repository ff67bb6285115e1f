"""A method of one's own, outside the package: DPO on pairs of the model's own answers, and its study.

selfteach train examples/dpo.py:DPO --task table
selfteach study examples/dpo.py:STUDY
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from selfteach.recipes.kit import *
from selfteach.studies import Claim, Study


@settings
class DPO(Recipe):
    """Prefer the right answers of a group to its wrong ones: the k-th right one to the k-th wrong one.

    "Direct Preference Optimization" (arXiv 2305.18290, eq. 7), with pairs (w, l) of the student's own fresh answers:

        L = mean over pairs of −log σ( β [ log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l) ] )
    """

    title = "Direct Preference Optimization"
    source = "arXiv 2305.18290"
    formula = "mean_(w,l) −log σ( β [ log π/π_ref (y_w) − log π/π_ref (y_l) ] )"
    presets = {
        "paper": {},
        "arena": {"lr": 3e-4, "warmup": 0, "max_tokens": 64, "per_prompt": 8, "prompts": 8, "steps": 150},
    }

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=1e-6, prompts=64, warmup=150, steps=1000)
    beta: PositiveFloat = 0.1
    """β, how far the student may go from where it began for a preference."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        unit, pairs = self.pairs(stats)
        reference = stats.unit_sum(unit, REFERENCE)

        def loss(sums: Tensor) -> Tensor:
            gained = self.beta * (sums - reference)
            return -logsigmoid(gained[:pairs] - gained[pairs:]).mean()

        informed = {REFERENCE: "sampled"}
        yield SequenceTerm(
            name="dpo", unit=unit, sums=stats.unit_sum(unit), function=loss, informed_by=informed
        )

    def pairs(self, stats: Statistics) -> tuple[Int[Tensor, "N"], int]:
        """([N] the unit of each row: pair i's right answer is unit i, its wrong one i + the number of pairs; -1: of
        none, that number)."""
        kinds = [stats.rows & stats.correct, stats.rows & ~stats.correct]
        groups = [
            [(kind & (stats.group == g)).nonzero()[:, 0] for kind in kinds] for g in stats.group.unique()
        ]
        both = [torch.stack([one[: min(map(len, pair))] for one in pair]) for pair in groups]
        rows = torch.cat(both, dim=1) if both else stats.group.new_zeros(2, 0)
        unit = torch.full_like(stats.group, -1)
        unit[rows.flatten()] = torch.arange(rows.numel(), device=unit.device)
        return unit, rows.shape[1]


STUDY = Study(
    method="dpo",
    task="table",
    claims=(
        Claim(
            says="Preferences between one's own answers do better than reinforcing them (DPO's frontier beats PPO's)",
            variants={"dpo": "dpo.py:DPO --steps 80", "grpo": "grpo --steps 80"},
            higher="dpo",
            lower="grpo",
            withdrawn="neither side gets beyond the untrained model (0.311) in 80 steps: both are to be tuned first",
        ),
    ),
)
