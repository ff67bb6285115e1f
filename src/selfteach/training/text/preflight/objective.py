"""Whether the recipe's terms are given what they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from selfteach.checks import nearest
from selfteach.errors import NotFinite
from selfteach.objective.columns import Columns
from selfteach.objective.listed import Listed
from selfteach.objective.plan import plan
from selfteach.objective.terms import Term
from selfteach.task.trajectory import Trajectory
from selfteach.task.verdict import Verdict
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.teachers.handed import advice
from selfteach.training.text.update import losses_of

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner
    from selfteach.training.text.update import TextBatch

SAMPLED = "which hands over the sampled tokens' log-probs alone"


def reads_reward(run: TextLearner, batch: TextBatch) -> bool:
    """Whether the recipe's terms ask for the reward: they cannot be made without it."""
    stats = batch.statistics()
    stats.columns = replace(stats.columns, reward=None)
    try:
        with torch.no_grad():
            list(run.recipe.summands(stats))
    except ValueError as problem:
        return "reward" in str(problem)
    return False


def objective_check(run: TextLearner, rollouts: Sequence[Trajectory]) -> Check:
    """The recipe's terms on these rollouts: each must be given by the roles what it reads of them."""
    batch = run.batching.of(rollouts, run.recipe.active(0), 0, alone=True)
    graded = [one for one in rollouts if one.grade and one.grade.verdict != Verdict.NO_REWARD.value]
    if not graded and reads_reward(run, batch):
        return Check(
            "objective",
            False,
            f"{type(run.recipe).__name__} learns from the reward, but nothing is graded, so that it is always 0: give "
            "rows with answers, a reward function (--reward FILE:NAME), or take a recipe without a reward",
        )
    try:
        with torch.no_grad():
            terms = first_terms(run, batch)
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
    if (refusal := beyond_what_is_handed_over(run, batch)) is not None:
        return Check("objective", False, refusal)
    nothing = [term.name for term in terms if selects_nothing(term, batch.columns)]
    named = f"terms {', '.join(term.name for term in terms)}"
    if not nothing:
        return Check("objective", True, named)
    return Check(
        "objective",
        True,
        f"{named}; of {len(rollouts)} short rollouts no token is selected by {', '.join(nothing)}: see that its weight "
        "and where select what you mean",
        warns=True,
    )


def beyond_what_is_handed_over(run: TextLearner, batch: TextBatch) -> str | None:
    """Why the terms cannot be taken where teachers hand over a few log-probs a token: they read more than these. None:
    they do not, or nobody does."""
    for role in (name for name, one in batch.scoring.frozen.items() if isinstance(one, Listed)):
        hidden = next(
            (one.name for one in first_terms(run, batch) if one.reads.get(role) == "features"), None
        )
        if hidden is not None:
            return f"term {hidden!r}: hidden states of {role!r} are read, which hands over log-probs: let it score"
    if not batch.listed:
        return None
    try:
        with torch.no_grad():
            for _ in losses_of(batch):
                pass
    except NotFinite as problem:
        return f"{problem}; {advice(run.recipe)}"
    return None


def first_terms(run: TextLearner, batch: TextBatch) -> list[Term]:
    """The terms of every kind of update that the first step makes, over all rows. ValueError as in training."""
    recipe, private = run.recipe, run.recipe.per_record is not None
    kinds = {update.roles: replace(update, part=0, parts=1) for update in reversed(recipe.updates(0))}
    every = [recipe.summands(batch.statistics(one, record=private)) for one in reversed(kinds.values())]
    return [term for terms in every for term in terms]


def selects_nothing(term: Term, columns: Columns) -> bool:
    """Whether where or weight leave a term none of the tokens that the roles it reads see. An advantage of 0 is not
    meant: short answers are often equally wrong."""
    if term.coefficient == 0 or not columns.seen(term.reads).any():
        return False
    try:
        (planned,) = plan([term], columns)
    except ValueError:  # of a few short rollouts some statistic may be undefined
        return False
    return not planned.coefficients.any()
