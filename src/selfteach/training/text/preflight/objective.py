"""Whether the recipe's terms are given what they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from selfteach.checks import nearest
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.preflight.check import Check

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

SAMPLED = "which hands over the sampled tokens' log-probs alone"


def objective_check(run: TextLearner, rollouts: Sequence[Trajectory]) -> Check:
    """The recipe's terms on these rollouts: each must be given by the roles what it reads of them."""
    batch = run.batching.of(rollouts, run.recipe.active(0), 0, alone=True)
    try:
        with torch.no_grad():
            terms = list(run.recipe.summands(batch.statistics(record=run.recipe.per_record is not None)))
    except ValueError as problem:
        return Check("objective", False, " ".join(str(problem).split()))
    if not terms:
        return Check("objective", False, "the recipe yields no term: its loss is always 0")
    for term in terms:
        for role, signal in term.reads.items():
            if role not in run.recipe.roles:
                known = nearest(role, run.recipe.roles)
                return Check("objective", False, f"term {term.name} reads {role!r}, which is no role{known}")
            given = run.recipe.roles[role].signal
            if (signal, given) == ("full", "sampled"):
                return Check(
                    "objective",
                    False,
                    f"term {term.name} reads the whole distribution of {role!r}, {SAMPLED}",
                )
    return Check("objective", True, f"terms {', '.join(term.name for term in terms)}")
