"""What a recipe may read before it names its terms: columns over the whole batch, without gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from selfteach.objective.batch import Columns
from selfteach.objective.divergence import Divergence
from selfteach.objective.positions import STUDENT, ColumnFunction, Positions
from selfteach.objective.sampled import importance_ratio
from selfteach.objective.support import Full, Support

Measure = Callable[[Mapping[str, ColumnFunction]], dict[str, Tensor]]


class Statistics:
    """The whole batch (all micro-batches, all processes) as [N] and [N, T] columns at one temperature.

    Columns that need logits are measured on first use, all the standard ones in a single pass: a recipe that
    reads none of them costs no extra pass. ``step`` is the optimizer step the loss is for, from 0.
    """

    def __init__(
        self, columns: Columns, *, step: int, temperature: float, teachers: Sequence[str], measure: Measure
    ) -> None:
        self.columns, self.step, self.temperature = columns, step, temperature
        self.teachers = tuple(teachers)
        self._measure = measure
        self._cache: dict[str, Tensor] = {}

    @property
    def ids(self) -> Tensor:
        return self.columns.ids

    @property
    def mask(self) -> Tensor:
        return self.columns.mask

    @property
    def behavior(self) -> Tensor | None:
        return self.columns.behavior

    @property
    def group(self) -> Tensor:
        return self.columns.group

    @property
    def reward(self) -> Tensor:
        return self.columns.reward

    @property
    def correct(self) -> Tensor:
        """[N] bool: reward ≥ 0.5."""
        return self.columns.reward >= 0.5

    @property
    def length(self) -> Tensor:
        """[N] written tokens."""
        return self.columns.mask.sum(dim=1)

    @property
    def relative_position(self) -> Tensor:
        """[N, T] (t − ½)/|y| of the t-th (from 1) written token of a rollout; 0 where it wrote none (card 02)."""
        nth = self.mask.cumsum(dim=1).to(self.reward.dtype) - 0.5
        return torch.where(self.mask, nth / self.length.clamp(min=1).unsqueeze(1), 0.0)

    def mark(self, name: str) -> Tensor:
        """[N, T] bool: the written tokens that carry this mark. ValueError if the batch has no such marks."""
        if name not in self.columns.marks:
            raise ValueError(
                f"marks lack {name!r}, which the recipe reads; there are {sorted(self.columns.marks)}"
            )
        return self.columns.marks[name] & self.mask

    def available(self, teacher: str) -> Tensor:
        """[N] bool: the rows whose ``teacher`` could see its view; none if it does not teach at this step."""
        if teacher not in self.teachers:
            return torch.zeros_like(self.correct)
        return self.columns.available_rows((teacher,))

    def sequence_mean(self, column: Tensor) -> Tensor:
        """[N, T] → [N]: each rollout's mean over its written tokens (0 if it wrote none)."""
        return torch.where(self.mask, column, 0.0).sum(dim=1) / self.length.clamp(min=1)

    def importance(self, truncate: float | None = None) -> Tensor | float:
        """[N, T] min(π/π_behavior, ``truncate``) of the sampled tokens; 1 where no behavior was recorded.

        π is the policy now. When each batch makes one update this is the whole correction of the sampler's mismatch
        (cards 28, 33).
        """
        if self.behavior is None:
            return 1.0
        return torch.where(self.mask, importance_ratio(self.log_prob(), self.behavior, truncate), 0.0)

    @property
    def old_log_prob(self) -> Tensor:
        """[N, T] log-prob (nats) of the sampled tokens under the policy that wrote them; the student's own where that
        was not recorded. The denominator of PPO's ratio."""
        return self.log_prob() if self.behavior is None else self.behavior

    def log_prob(self, role: str = STUDENT) -> Tensor:
        """[N, T] log-prob (nats) of the sampled tokens under the student or a teacher."""
        if role in self.columns.log_probs:
            return self.columns.log_probs[role]
        return self._standard(f"log_prob/{role}")

    def entropy(self, role: str = STUDENT) -> Tensor:
        """[N, T] entropy (nats) of the next-token distribution of the student or a teacher."""
        return self._standard(f"entropy/{role}")

    def divergence(self, teacher: str, divergence: Divergence, support: Support | None = None) -> Tensor:
        """[N, T] a divergence (nats) between student and teacher."""
        cut = support or Full()

        def column(at: Positions) -> Tensor:
            student = at.log_probs(STUDENT, self.temperature)
            return divergence(*cut.restrict(student, at.log_probs(teacher, self.temperature)))

        return self.column(f"divergence/{teacher}/{divergence}/{cut}", column)

    def column(self, name: str, function: ColumnFunction) -> Tensor:
        """[N, T] any quantity of one position's logits; ``name`` identifies it, so that it is measured once."""
        if name not in self._cache:
            self._cache |= self._measure({name: function})
        return self._cache[name]

    def _standard(self, name: str) -> Tensor:
        if name not in self._cache:
            scored = [one for one in self.teachers if one not in self.columns.log_probs]
            self._cache |= self._measure(standard_columns(scored, self.temperature))
        return self._cache[name]


def standard_columns(teachers: Sequence[str], temperature: float) -> dict[str, ColumnFunction]:
    """Sampled log-prob and entropy of the student and each teacher."""
    columns: dict[str, ColumnFunction] = {}
    for role in (STUDENT, *teachers):
        columns[f"log_prob/{role}"] = partial(Positions.sampled, role=role, temperature=temperature)
        columns[f"entropy/{role}"] = partial(role_entropy, role=role, temperature=temperature)
    return columns


def role_entropy(at: Positions, role: str = STUDENT, temperature: float = 1.0) -> Tensor:
    """[P] entropy (nats) of a role's next-token distribution."""
    return entropy(at.log_probs(role, temperature))


def entropy(log_probs: Tensor) -> Tensor:
    """[..., V] log-probs → [...] entropy in nats; an excluded token (−inf) adds nothing."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)
