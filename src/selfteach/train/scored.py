"""From rollouts and contexts to what the objective sees, in micro-batches, over one or many processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from selfteach.objective.batch import Columns, Scored, ScoredBatch
from selfteach.objective.engine import measure
from selfteach.objective.head import Head, LowRank
from selfteach.objective.positions import ColumnFunction
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy
from selfteach.policy.scorer import LocalScorer
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import Weights
from selfteach.task.trajectory import Trajectory
from selfteach.train.context import Context


@dataclass
class Scorer:
    """Scores this process's rollouts of one step with the student and its teachers.

    ``teachers`` hand over distributions; those in ``sampled`` gave their log-probs already (``Trajectory.log_probs``).
    """

    accelerator: Accelerator
    policy: Policy
    module: nn.Module
    weights: WeightStore
    teachers: Mapping[str, Weights]
    rollouts: Sequence[Trajectory]
    contexts: Mapping[str, Context]
    micro_batch: int
    sampled: Sequence[str] = ()
    columns: Columns = field(init=False)
    first_row: int = field(init=False)
    _teacher_states: dict[tuple[str, int], Scored] = field(default_factory=dict)
    _student_state: Tensor | None = None

    def __post_init__(self) -> None:
        rows = [row_of(one, i, self.contexts, self.sampled) for i, one in enumerate(self.rollouts)]
        counts = gather_object([len(rows)])
        self.first_row = sum(counts[: self.accelerator.process_index])
        self.columns = columns_of(gather_object(rows), self.accelerator.device, self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of columns that hold numbers: float32, or float64 where the model is of that."""
        return torch.promote_types(torch.float32, self.policy.model.dtype)

    @property
    def starts(self) -> range:
        return range(0, len(self.rollouts), self.micro_batch)

    def batches(self) -> Iterator[ScoredBatch]:
        """Each micro-batch once, the student with gradient."""
        for start in self.starts:
            yield self.batch(start, gradient=True)
        self._student_state = None

    def measure(self, wanted: Mapping[str, ColumnFunction]) -> dict[str, Tensor]:
        """[N, T] columns over the whole batch of all processes, without gradient (see ``Statistics``)."""
        local = {name: torch.zeros(0) for name in wanted}
        for start in self.starts:
            # With a single micro-batch the gradient pass will want this very forward again: keep its graph.
            with torch.set_grad_enabled(len(self.starts) == 1):
                batch = self.batch(start, gradient=len(self.starts) == 1)
            for name, column in measure(batch, wanted).items():
                if not len(local[name]):
                    local[name] = column.new_zeros(len(self.rollouts), self.columns.ids.shape[1])
                local[name][start : start + len(column), : column.shape[1]] = column
        return {name: self.accelerator.gather(column) for name, column in local.items()}

    def batch(self, start: int, *, gradient: bool) -> ScoredBatch:
        part = slice(start, start + self.micro_batch)
        # Teachers first: no weights may be exchanged once the student's graph lives.
        teachers = {name: self._teacher(name, start, part) for name in self.teachers}
        head = output_head(self.policy.model, self.policy.vocabulary)
        return ScoredBatch(
            columns=self.batch_columns(start),
            student=Scored(self._student(self.rollouts[part], gradient), head),
            teachers=teachers,
            rows=self.rows(start),
        )

    def rows(self, start: int) -> Tensor:
        """Where a micro-batch's rollouts stand in the whole batch of all processes."""
        stop = min(start + self.micro_batch, len(self.rollouts))
        return torch.arange(self.first_row + start, self.first_row + stop, device=self.accelerator.device)

    def batch_columns(self, start: int) -> Columns:
        width = max(len(one.ids) for one in self.rollouts[start : start + self.micro_batch])
        return cut(self.columns, self.rows(start), width)

    def _student(self, rollouts: Sequence[Trajectory], gradient: bool) -> Tensor:
        if self._student_state is not None:
            return self._student_state
        self.policy.model.train(gradient)
        with torch.set_grad_enabled(gradient):
            hidden = states(
                LocalScorer(self.module), self.policy, [one.prompt_ids for one in rollouts], rollouts
            )
        if len(self.starts) == 1:
            self._student_state = hidden
        return hidden

    @torch.no_grad()
    def _teacher(self, name: str, start: int, part: slice) -> Scored:
        if (name, start) not in self._teacher_states:
            with self.weights.scoring(self.teachers[name]) as policy:
                head = detached_head(policy)
                hidden = states(LocalScorer(), policy, self.contexts[name].prompts[part], self.rollouts[part])
            self._teacher_states[name, start] = Scored(hidden, head)
        return self._teacher_states[name, start]


def states(
    scorer: LocalScorer, policy: Policy, contexts: Sequence[list[int] | None], rollouts: Sequence[Trajectory]
) -> Tensor:
    """[N, T, d]. Rows without a context cost nothing and hold zeros: they count nowhere (``Columns.available``)."""
    seen = [(ids, one) for ids, one in zip(contexts, rollouts, strict=True) if ids is not None]
    flat = scorer.states(
        policy, [ids for ids, _ in seen], [one.ids for _, one in seen], [one.mask for _, one in seen]
    )
    width = max(len(one.ids) for one in rollouts)
    written = [
        [own and ids is not None for own in one.mask] + [False] * (width - len(one.ids))
        for ids, one in zip(contexts, rollouts, strict=True)
    ]
    padded = flat.new_zeros(len(rollouts), width, flat.shape[-1])
    return padded.index_put(torch.tensor(written, device=flat.device).nonzero(as_tuple=True), flat)


def detached_head(policy: Policy) -> Head:
    """The head as it is now. What an exchange of adapters may change in place is cloned."""

    def kept(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        return tensor.detach().clone() if policy.adapted and tensor.requires_grad else tensor.detach()

    head = output_head(policy.model, policy.vocabulary)
    lora = head.lora and LowRank(
        head.lora.down.detach().clone(), head.lora.up.detach().clone(), head.lora.scaling
    )
    return replace(head, weight=kept(head.weight), bias=kept(head.bias), lora=lora)


def row_of(
    one: Trajectory, i: int, contexts: Mapping[str, Context], sampled: Sequence[str]
) -> dict[str, Any]:
    """A rollout's small facts, as they travel between processes."""
    seen = {name: context.prompts[i] is not None for name, context in contexts.items()}
    return {
        "ids": one.ids,
        "mask": one.mask,
        "behavior": one.behavior if one.ids and one.sampled else None,
        "turn": one.turn,
        "group": one.group,
        "reward": 0.0 if one.grade is None else one.grade.reward,
        "available": {**seen, **{name: name in one.log_probs for name in sampled}},
        "marks": one.marks,
        "log_probs": {name: one.log_probs.get(name, [0.0] * len(one.ids)) for name in sampled},
    }


def columns_of(
    rows: Sequence[Mapping[str, Any]], device: torch.device, dtype: torch.dtype = torch.float32
) -> Columns:
    """Right-padded columns of all rows."""

    width = max(len(row["ids"]) for row in rows)

    def padded(name: str, kind: torch.dtype, *, of: str | None = None) -> Tensor:
        column = torch.zeros(len(rows), width, dtype=kind)
        for i, row in enumerate(rows):
            values = row[name] if of is None else row[of][name]
            column[i, : len(values)] = torch.tensor(values, dtype=kind)
        return column.to(device)

    sampled = all(row["behavior"] is not None for row in rows)
    return Columns(
        ids=padded("ids", torch.long),
        mask=padded("mask", torch.bool),
        group=torch.tensor([row["group"] for row in rows], device=device),
        reward=torch.tensor([row["reward"] for row in rows], dtype=dtype, device=device),
        behavior=padded("behavior", dtype) if sampled else None,
        turn=padded("turn", torch.long),
        available={
            name: torch.tensor([row["available"][name] for row in rows], device=device)
            for name in rows[0]["available"]
        },
        marks={name: padded(name, torch.bool, of="marks") for name in rows[0]["marks"]},
        log_probs={name: padded(name, dtype, of="log_probs") for name in rows[0]["log_probs"]},
    )


def cut(columns: Columns, rows: Tensor, width: int) -> Columns:
    """Some rows of the whole batch, without the padding they do not need."""

    def pick(column: Tensor) -> Tensor:
        return column[rows, :width]

    return Columns(
        ids=pick(columns.ids),
        mask=pick(columns.mask),
        group=columns.group[rows],
        reward=columns.reward[rows],
        behavior=None if columns.behavior is None else pick(columns.behavior),
        turn=None if columns.turn is None else pick(columns.turn),
        available={name: column[rows] for name, column in columns.available.items()},
        marks={name: pick(column) for name, column in columns.marks.items()},
        log_probs={name: pick(column) for name, column in columns.log_probs.items()},
    )
