"""References cut into turns, each a row of its own, more of them on one process than on another.

python uneven.py 101323 --out FOLDER --steps 3 …, or by torchrun; the digits: how many turns each prompt has (0: none)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from off_policy import of_kind
from selfteach.api.progress import Silent
from selfteach.objective.divergence import ForwardKL
from selfteach.objective.divisor import Divisor
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, NegativeLogLikelihood, PolicyGradient, Term
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Solution
from selfteach.roles.weights import Frozen
from selfteach.task.segment import DATA, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.launch import launch


@dataclass(frozen=True)
class Uneven(OPSD):
    """A loss by trajectory, with weights made of all processes' log-probs; OPSD's, and a policy gradient that sampled
    log-probs inform, where the teachers see."""

    turns: str = "1"

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {**super().teachers, "critic": Role(Frozen(), Solution(), signal="sampled")}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        quoted = tools.quote(prompts, "worked")
        counts = [int(self.turns[one.group]) for one in quoted]
        return [in_turns(one, count) for one, count in zip(quoted, counts, strict=True) if count]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        log_prob = torch.where(stats.mask, stats.log_prob(), 0.0)
        odd = (log_prob - log_prob.sum() / stats.mask.sum()).clamp(-1, 1)
        yield NegativeLogLikelihood(name="nll", weight=2 + odd, mean_over=Divisor("written", "trajectory"))
        yield Match(name="distill", target=FromRole("teacher"), divergence=ForwardKL(), mean_over="sequences")
        yield PolicyGradient(
            name="policy",
            advantage=stats.log_prob("critic") - stats.log_prob(),
            informed_by={"critic": "sampled"},
        )


def in_turns(one: Trajectory, count: int) -> Trajectory:
    """The same tokens in so many turns, each of which says what it was written after."""
    return replace(one, segments=tuple(turns(one, count)), trajectory=one.group)


def turns(one: Trajectory, count: int) -> Iterator[Segment]:
    bounds = [len(one.ids) * k // count for k in range(count + 1)]
    for turn, (begin, end) in enumerate(pairwise(bounds)):
        before = [*one.prompt_ids, *one.ids[:begin]]
        yield Segment(one.ids[begin:end], DATA, turn=turn, context=before if turn else None)


if __name__ == "__main__":
    launch(of_kind(Uneven, sys.argv[2:], turns=sys.argv[1]), Silent, Silent)
