"""What the objective sees: response tokens, hidden states of everybody who scored them, outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selfteach.objective.head import IDENTITY, Head


@dataclass(frozen=True)
class Scored:
    """One role's scores of every response position: ``hidden`` [N, T, d] and the head that makes logits.

    ``hidden[n, t]`` is the state that *predicts* response token t. With the identity head it holds logits.
    """

    hidden: Tensor
    head: Head = IDENTITY


@dataclass(frozen=True)
class Columns:
    """The small facts of a batch of N rollouts, T response positions, right-padded (design: ScoredBatch).

    ``ids`` [N, T] long · ``mask`` [N, T] bool, True where the policy wrote the token · ``behavior`` [N, T]
    log-prob (nats) when it was sampled, or None · ``group`` [N] rollouts of one prompt share a number ·
    ``reward`` [N] · ``turn`` [N, T] · ``available`` teacher name → [N] bool (absent name: available everywhere) ·
    ``marks`` name → [N, T] bool, spans somebody pointed at · ``log_probs`` teacher name → [N, T] log-prob (nats) of the
    sampled tokens, of a teacher that gave no more than these.
    Raises ValueError naming the column whose shape does not fit.
    """

    ids: Tensor
    mask: Tensor
    group: Tensor
    reward: Tensor
    behavior: Tensor | None = None
    turn: Tensor | None = None
    available: Mapping[str, Tensor] = field(default_factory=dict)
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    log_probs: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ids.dim() != 2:
            raise ValueError(f"ids must be [N, T], got {tuple(self.ids.shape)}")
        rows = self.ids.shape[:1]
        expected = {"mask": self.ids.shape, "behavior": self.ids.shape, "turn": self.ids.shape}
        expected |= {"group": rows, "reward": rows}
        for name, shape in expected.items():
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise ValueError(f"{name} must be {tuple(shape)} to fit ids, got {tuple(column.shape)}")
        for name, column in self.available.items():
            if column.shape != rows:
                raise ValueError(f"available[{name!r}] must be {tuple(rows)}, got {tuple(column.shape)}")
        for kind, columns in {"marks": self.marks, "log_probs": self.log_probs}.items():
            for name, column in columns.items():
                if column.shape != self.ids.shape:
                    raise ValueError(
                        f"{kind}[{name!r}] must be {tuple(self.ids.shape)} to fit ids, got {tuple(column.shape)}"
                    )
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")

    def available_rows(self, teachers: tuple[str, ...]) -> Tensor:
        """[N] bool: the rows for which every named teacher could see its view."""
        rows = torch.ones_like(self.group, dtype=torch.bool)
        for name in teachers:
            if name in self.available:
                rows = rows & self.available[name]
        return rows


@dataclass(frozen=True)
class ScoredBatch:
    """Columns plus who scored them. Only ``student.hidden`` (and its head) carries gradient.

    ``rows`` [N] places these rows in the whole batch: weights are computed over the whole batch (all
    micro-batches, all processes), gradients over these rows. None: these rows are the whole batch.
    """

    columns: Columns
    student: Scored
    teachers: Mapping[str, Scored] = field(default_factory=dict)
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.columns.ids.shape
        for name, scored in {"student": self.student, **self.teachers}.items():
            if scored.hidden.dim() != 3 or scored.hidden.shape[:2] != shape:
                raise ValueError(
                    f"{name} hidden states (or logits) must be [{shape[0]}, {shape[1]}, d] to fit ids, "
                    f"got {tuple(scored.hidden.shape)}"
                )
