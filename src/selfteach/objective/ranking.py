"""How likely a ranking is under the student: the loss of a teacher that orders tokens and says no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfteach.objective.axes import Entries
from selfteach.objective.entrywise import NEVER, Divergence


@dataclass(frozen=True)
class PlackettLuce(Divergence):
    """Negative log-likelihood (nats) that entries, drawn one by one without replacement in proportion to the student's
    probabilities, come in the teacher's order, its likeliest first: with s sorted so,

        Σ_i [ log Σ_{j ≥ i} exp s_j − s_i ]                       (Plackett–Luce; TSD-KD, arXiv 2603.13260)

    No divergence: of equal sides it is not 0. It depends on the teacher's order alone, and does not change with a
    constant in the student's numbers. ``order`` "reversed": its likeliest last, which is what TSD-KD's released code
    computes. Meant for a few entries (``TopK(k, "student", "drop")``). ValueError for ``clip_entry``: a summand depends
    on every entry behind it.
    """

    order: Literal["teacher", "reversed"] = "teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_entry is not None:
            raise ValueError("clip_entry has no meaning here: a summand depends on every entry behind it")

    def summand(self, student: Entries, teacher: Entries) -> Entries:
        place, ranked, behind = self._ranked(student, teacher)
        found = (behind - ranked).masked_fill(ranked == NEVER, 0.0)
        return torch.zeros_like(student).scatter(-1, place, found)

    def slope(self, student: Entries, teacher: Entries) -> Entries:
        """∂ of the sum in each log-prob: Σ_{i ≤ k} exp(s_k − log Σ_{j ≥ i} exp s_j) − 1."""
        place, ranked, behind = self._ranked(student, teacher)
        # Entries outside come last, where nothing is behind: exp(−inf) of them is never asked for.
        before = torch.logcumsumexp(-behind.masked_fill(behind == NEVER, torch.inf), dim=-1)
        found = ((ranked + before).exp() - 1).masked_fill(ranked == NEVER, 0.0)
        return torch.zeros_like(student).scatter(-1, place, found)

    def _ranked(self, student: Entries, teacher: Entries) -> tuple[Tensor, Tensor, Tensor]:
        """(places in the order, the student's log-probs in it, log Σ exp of each and those behind it)."""
        key = teacher if self.order == "teacher" else torch.where(teacher == NEVER, teacher, -teacher)
        place = key.argsort(dim=-1, descending=True, stable=True)
        ranked = student.gather(-1, place)
        behind = torch.logcumsumexp(ranked.flip(-1), dim=-1).flip(-1)
        return place, ranked, behind
