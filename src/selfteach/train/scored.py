"""From rollouts and contexts to what the objective sees, in micro-batches, over one or many processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.head import Head
from selfteach.objective.positions import Quantity
from selfteach.objective.record import measure
from selfteach.policy.head import output_head
from selfteach.policy.loading import Policy
from selfteach.policy.scoring import ResponseScorer, ScoringInputs, pack, score
from selfteach.task.rollout import Rollout
from selfteach.teacher.weights import TeacherWeights
from selfteach.train.context import Context


@dataclass
class Scorer:
    """Scores this process's rollouts of one step with the student and its teachers.

    ``teachers`` hand over distributions; those in ``sampled`` gave their log-probs already (``Rollout.log_probs``).
    """

    accelerator: Accelerator
    policy: Policy
    module: nn.Module
    teachers: Mapping[str, TeacherWeights]
    rollouts: Sequence[Rollout]
    contexts: Mapping[str, Context]
    micro_batch: int
    mixed: bool = False
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

    def measure(self, wanted: Mapping[str, Quantity]) -> dict[str, Tensor]:
        """[N, T] columns over the whole batch of all processes, without gradient (see ``Statistics``)."""
        mine = slice(self.first_row, self.first_row + len(self.rollouts))
        local: dict[str, Tensor] = {}
        for start in self.starts:
            # With a single micro-batch the gradient pass will want this very forward again: keep its graph.
            with torch.set_grad_enabled(len(self.starts) == 1):
                batch = self.batch(start, gradient=len(self.starts) == 1)
            for name, values in measure(batch, wanted).items():
                column = batch.spread(values)[mine]
                local[name] = (
                    column if name not in local else torch.where(column.isnan(), local[name], column)
                )
        return {name: self.accelerator.gather(column) for name, column in local.items()}

    def batch(self, start: int, *, gradient: bool) -> ScoredBatch:
        part = slice(start, start + self.micro_batch)
        head = output_head(self.policy.model, self.policy.vocabulary)
        student = Scored(self._student(self.rollouts[part], gradient), head)
        teachers = {name: self._teacher(name, start, part) for name in self.teachers}
        return ScoredBatch.padded(self.columns, {STUDENT: student, **teachers}, self.rows(start))

    def rows(self, start: int) -> Tensor:
        """Where a micro-batch's rollouts stand in the whole batch of all processes."""
        stop = min(start + self.micro_batch, len(self.rollouts))
        return torch.arange(self.first_row + start, self.first_row + stop, device=self.accelerator.device)

    def autocast(self) -> torch.autocast:
        """bfloat16 arithmetic in the transformer where the run is of mixed precision; the objective stays exact."""
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.mixed)

    def _student(self, rollouts: Sequence[Rollout], gradient: bool) -> Tensor:
        if self._student_state is not None:
            return self._student_state
        inputs = packed(self.policy, [one.prompt_ids for one in rollouts], rollouts, self.accelerator.device)
        self.policy.model.train(gradient)
        with torch.set_grad_enabled(gradient), self.autocast():
            hidden = score(self.module, inputs)
        if len(self.starts) == 1:
            self._student_state = hidden
        return hidden

    @torch.no_grad()
    def _teacher(self, name: str, start: int, part: slice) -> Scored:
        if (name, start) not in self._teacher_states:
            rollouts, prompts = self.rollouts[part], self.contexts[name].prompts[part]
            seen = [i for i, ids in enumerate(prompts) if ids is not None]
            width = max(len(one.ids) for one in rollouts)
            with self.teachers[name].in_place() as policy:
                policy.model.eval()
                head = detached_head(policy)
                hidden = self._seen_states(
                    policy, [prompts[i] or [] for i in seen], [rollouts[i] for i in seen]
                )
            # Rows whose view is empty cost nothing and count nowhere (``Columns.available``).
            whole = hidden.new_zeros(len(rollouts), width, hidden.shape[-1])
            whole[seen, : hidden.shape[1]] = hidden
            self._teacher_states[name, start] = Scored(whole, head)
        return self._teacher_states[name, start]

    def _seen_states(self, policy: Policy, prompts: list[list[int]], rollouts: Sequence[Rollout]) -> Tensor:
        if not rollouts:
            weight = output_head(policy.model, policy.vocabulary).weight
            assert weight is not None
            return weight.new_zeros(0, 0, weight.shape[-1])
        inputs = packed(policy, prompts, rollouts, self.accelerator.device)
        with self.autocast():
            return score(ResponseScorer(policy.model), inputs)


def detached_head(policy: Policy) -> Head:
    """The head as it is now: tensors that keep pointing at these weights when the student's are swapped back."""
    head = output_head(policy.model, policy.vocabulary)
    lora = head.lora and replace(head.lora, down=head.lora.down.detach(), up=head.lora.up.detach())
    return replace(
        head,
        weight=None if head.weight is None else head.weight.detach(),
        bias=None if head.bias is None else head.bias.detach(),
        lora=lora,
    )


def packed(
    policy: Policy, prompts: list[list[int]], rollouts: Sequence[Rollout], device: torch.device
) -> ScoringInputs:
    return pack(prompts, [one.ids for one in rollouts], policy.chat.pad_id, device)


def row_of(one: Rollout, i: int, contexts: Mapping[str, Context], sampled: Sequence[str]) -> dict[str, Any]:
    """A rollout's small facts, as they travel between processes."""
    seen = {name: context.prompts[i] is not None for name, context in contexts.items()}
    return {
        "ids": one.ids,
        "mask": one.mask,
        "behavior": one.behavior,
        "turn": one.turn or [0] * len(one.ids),
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

    # A row whose sampler left no log-probs has none: not those of the present policy, and no ratio of 1.
    rows = [{**row, "behavior": row["behavior"] or [torch.nan] * len(row["ids"])} for row in rows]
    return Columns(
        ids=padded("ids", torch.long),
        mask=padded("mask", torch.bool),
        group=torch.tensor([row["group"] for row in rows], device=device),
        reward=torch.tensor([row["reward"] for row in rows], dtype=dtype, device=device),
        behavior=padded("behavior", dtype),
        turn=padded("turn", torch.long),
        available={
            name: torch.tensor([row["available"][name] for row in rows], device=device)
            for name in rows[0]["available"]
        },
        marks={name: padded(name, torch.bool, of="marks") for name in rows[0]["marks"]},
        log_probs={name: padded(name, dtype, of="log_probs") for name in rows[0]["log_probs"]},
        precision=dtype,
    )
