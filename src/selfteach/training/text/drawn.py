"""At which of a step's tokens distributions are compared for the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import Columns
from selfteach.objective.uniform import uniform


@dataclass(frozen=True)
class Drawn:
    """``most`` tokens (None: all) of those that everybody concerned sees, each as likely as any other: their mean is an
    unbiased estimate of the mean over all.

    A pure function of ``seed``, ``step`` and the batch's columns: the same for any split into micro-batches, updates
    and processes.
    """

    columns: Columns
    seed: int
    step: int
    most: int | None
    _known: list[tuple[Bool[Tensor, "N T"], Bool[Tensor, "N T"]]] = field(default_factory=list)

    def of(self, *roles: str) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the drawn tokens of those that the student and these roles see; one tensor for roles that see
        the same."""
        seen = self.columns.seen((STUDENT, *roles))
        for one, drawn in self._known:
            if torch.equal(one, seen):
                return drawn
        self._known.append((seen, self._draw(seen)))
        return self._known[-1][1]

    def _draw(self, seen: Bool[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
        if self.most is None or int(seen.sum()) <= self.most:
            return seen
        key, (rows, steps) = f"{self.seed} {self.step} metrics", seen.shape
        chance = uniform(key, rows, steps, torch.float64, seen.device)
        return seen & (chance <= chance[seen].kthvalue(self.most).values)
