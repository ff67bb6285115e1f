"""How likely some examples' private text is, measured at every step for controllers (ATESD)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Positions, Quantity

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner


def reference_likelihoods(learner: TextLearner, step: int) -> dict[str, float]:
    """``reference/…`` of the recipe's probe: the student's NLL (nats a token), each teacher's mean log-prob."""
    probe = learner.recipe.reference_probe
    if probe is None:
        return {}
    with learner.clock("probe"), torch.no_grad():
        tools = learner.writing.tools(step)
        rows = [
            tools.quoted(one, probe.field, learner.recipe.rollouts.max_tokens)
            for one in learner.writing.probed[: probe.examples]
        ]
        contexts = learner.batching.contexts(rows, learner.recipe.active(step))
        scoring = learner.batching.scoring(rows, contexts)
        roles = (STUDENT, *contexts)
        columns = scoring.measure(
            {
                role: Quantity(partial(Positions.sampled, role=role, temperature=1.0), (role,))
                for role in roles
            }
        )
    means = {role: float(columns[role][scoring.columns.seen((role,))].mean()) for role in roles}
    return {f"reference/{role}": -mean if role == STUDENT else mean for role, mean in means.items()}
