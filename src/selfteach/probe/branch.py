"""Forced-token continuations: what becomes of an answer once a certain token was taken (PW-OPSD and Unmasking OPD)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy
from selfteach.policy.sampler import LocalSampler
from selfteach.task.example import Task
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Branch:
    """``token`` forced after the first ``step`` tokens of a rollout, behind the student's own prompt."""

    rollout: Trajectory
    step: int
    token: int

    @property
    def written(self) -> list[int]:
        return [*self.rollout.ids[: self.step], self.token]

    @property
    def context(self) -> list[int]:
        return self.rollout.prompt_ids + self.written


@dataclass(frozen=True)
class Continuation:
    """One of a branch's completions to be sampled: the branch's place in the list, and the tokens it may still take."""

    branch: int
    copy: int
    context: list[int]
    room: int


def successes(
    policy: Policy,
    task: Task,
    branches: Sequence[Branch],
    sampling: Sampling,
    *,
    completions: int,
    batch_size: int | None,
) -> Float[Tensor, "B M"]:
    """[B, M = ``completions``] 1 where the policy's completion of the branch is graded right, else 0.

    ``sampling.max_tokens`` bounds the whole answer, the branch's prefix included. A branch that ends the answer
    (a stop token, or no room left) is graded once as it stands. Draws from torch's global generator.
    """
    result = torch.zeros(len(branches), completions, dtype=torch.float64)
    wanted: list[Continuation] = []
    for i, one in enumerate(branches):
        room = sampling.max_tokens - len(one.written)
        if one.token in policy.renderer.stop_ids or room < 1:
            result[i] = right(policy, task, one, [])
        else:
            wanted += [Continuation(i, copy, one.context, room) for copy in range(completions)]
    for batch in batches(wanted, batch_size, policy.window):
        longest = replace(sampling, max_tokens=batch[0].room)
        written = LocalSampler(policy).sample([one.context for one in batch], longest)
        for part, tokens in zip(batch, written, strict=True):
            result[part.branch, part.copy] = right(
                policy, task, branches[part.branch], tokens.ids[: part.room]
            )
    return result


def batches(wanted: Sequence[Continuation], size: int | None, window: int) -> Iterator[list[Continuation]]:
    """Those with most room first, so that a batch may run as long as its first; its longest must then fit. ``size``:
    most in a batch (None: no bound, for the sampler has its own)."""
    batch: list[Continuation] = []
    longest = 0
    for one in sorted(wanted, key=lambda one: -one.room):
        longest = max(longest, len(one.context))
        if batch and (len(batch) == size or longest + batch[0].room > window):
            yield batch
            batch, longest = [], len(one.context)
        batch.append(one)
    if batch:
        yield batch


def right(policy: Policy, task: Task, branch: Branch, tokens: list[int]) -> float:
    text = policy.renderer.text(branch.written + tokens)
    return float(task.grade(branch.rollout.example, text).correct)
