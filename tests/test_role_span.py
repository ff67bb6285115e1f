"""A role that scores a part of a trajectory: its view stands before the part, all later tokens follow as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from doors import run_of_recipe
from selfteach.objective.divergence import ForwardKL
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, Term
from selfteach.roles.role import Role
from selfteach.roles.span import FromTurn
from selfteach.roles.view import Solution
from selfteach.roles.weights import Frozen
from test_door_turns import Agent


@dataclass(frozen=True)
class Later(Agent):
    """The second turn alone, by a teacher that reads the solution in place of the first."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {"teacher": Role(Frozen(), Solution(), span=FromTurn(1))}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(name="later", target=FromRole("teacher"), divergence=ForwardKL())


def test_the_view_stands_before_the_span_and_what_is_before_it_counts_nowhere(
    tiny: str, tmp_path: Path
) -> None:
    _, learner = run_of_recipe(Later(), tiny, tmp_path)
    batch = learner.collect(0)
    scores = batch.statistics().log_prob("teacher")
    numbers = learner.backward(batch, learner.recipe.updates(0)[0], False)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for i, one in enumerate(batch.rows):
        begin = one.turn.index(1)
        context = learner.policy.renderer.prompt_ids(Solution()(one, [one], learner.task.wording) or ())
        rest = torch.tensor([[*context, *one.ids[begin:]]])
        own = torch.tensor([[*one.prompt_ids, *one.ids]])
        with torch.no_grad():
            q = learner.policy.model(rest).logits[0, len(context) - 1 : -1, :102].log_softmax(-1)
            p = (
                learner.policy.model(own)
                .logits[0, len(one.prompt_ids) + begin - 1 : -1, :102]
                .log_softmax(-1)
            )
        mask = torch.tensor(one.mask[begin:])
        expected = q[range(len(q)), one.ids[begin:]][mask]
        torch.testing.assert_close(scores[i, begin : len(one.ids)][mask], expected, rtol=1e-9, atol=1e-9)
        assert scores[i, :begin].isnan().all()
        total, count = total + (q.exp() * (q - p)).sum(-1)[mask].sum(), count + int(mask.sum())
    torch.testing.assert_close(
        torch.tensor(numbers["loss"], dtype=torch.float64), total / count, rtol=1e-9, atol=1e-9
    )
