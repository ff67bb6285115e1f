"""What a step measures beside its loss."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import ForwardKL
from selfteach.objective.engine import Outcome
from selfteach.objective.positions import Positions, Quantity
from selfteach.objective.statistics import role_entropy
from selfteach.training.reduce import mean_over_processes, sum_over_processes
from selfteach.training.text.contexts import Context
from selfteach.training.text.update import TextBatch
from selfteach.training.text.written import text_metrics

WATCHED = ("divergence", "entropy", "mass", "overlap")
"""Kinds of columns whose means are metrics."""
TOP_K = 5
"""How many of the likeliest tokens are compared (Many Faces reports k from 1 to 50; a character has few rivals)."""


@dataclass
class Likeliest:
    """Each role's ``TOP_K`` likeliest tokens at the positions at hand, found once for every column that asks."""

    at: weakref.ref[Positions] | None = None
    found: dict[str, Int[Tensor, "P k"]] = field(default_factory=dict)

    def __call__(self, at: Positions, role: str) -> Int[Tensor, "P k"]:
        """[P, k] token ids, k = ``TOP_K`` or the whole of a smaller vocabulary."""
        if self.at is None or self.at() is not at:
            self.at, self.found = weakref.ref(at), {}
        if role not in self.found:
            logits = at.logits[role]
            self.found[role] = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1, sorted=False).indices
        return self.found[role]


def watched(teachers: Iterable[str], temperature: float) -> dict[str, Quantity]:
    """Columns measured at every written token beside the loss, on the same logits (docs/metrics.md)."""
    top = Likeliest()
    columns = {
        "entropy/student": Quantity(partial(role_entropy, role=STUDENT, temperature=temperature)),
        "mass/student": Quantity(partial(mass, role=STUDENT, temperature=temperature, top=top)),
    }
    for name in teachers:
        for kind, function in (
            ("divergence", partial(gap, teacher=name, temperature=temperature)),
            ("entropy", partial(role_entropy, role=name, temperature=temperature)),
            ("mass", partial(mass, role=name, temperature=temperature, top=top)),
            ("overlap", partial(overlap, teacher=name, top=top)),
        ):
            columns[f"{kind}/{name}"] = Quantity(function, (STUDENT, name))
    return columns


def gap(at: Positions, teacher: str, temperature: float) -> Float[Tensor, "P"]:
    """[P] unclipped forward KL(teacher‖student) in nats: the same measure whatever the recipe's own loss."""
    return ForwardKL()(at.log_probs(STUDENT, temperature), at.log_probs(teacher, temperature))


def mass(at: Positions, role: str, temperature: float, top: Likeliest) -> Float[Tensor, "P"]:
    """[P] the student's probability on the likeliest tokens of ``role`` (itself or a teacher)."""
    return at.log_probs(STUDENT, temperature).gather(-1, top(at, role)).exp().sum(-1)


def overlap(at: Positions, teacher: str, top: Likeliest) -> Float[Tensor, "P"]:
    """[P] share of the student's likeliest tokens that are among the teacher's likeliest too (Many Faces)."""
    mine, theirs = top(at, STUDENT), top(at, teacher)
    return (mine.unsqueeze(-1) == theirs.unsqueeze(-2)).any(-1).float().mean(-1)


def row_of(batch: TextBatch, classes: tuple[list[str], Int[Tensor, "V"]], seconds: float) -> dict[str, Any]:
    """What a step measured beside its losses, of all processes' rows (names, units and formulas: docs/metrics.md).

    ``classes``: names of token classes, and each token id's. ``seconds``: what the step took so far.
    """
    rows = batch.rows
    private = {field for role in batch.recipe.teachers.values() for field in role.view.fields}
    lengths = [len(one.ids) for one in rows]
    means = mean_over_processes(
        {
            "length/mean": lengths,
            "truncated": [not one.finished for one in rows],
            "reward/mean": [one.grade.reward for one in rows if one.grade is not None],
            **{f"unavailable/{name}": blind(context) for name, context in batch.contexts.items()},
        }
    )
    tokens = sum_over_processes({"tokens": sum(lengths)})["tokens"]
    return {
        **token_means(batch.columns, batch.looked, classes),
        **text_metrics(rows, private),
        **{"reward/mean": 0.0, **means},
        **spread(batch.columns),
        **batch.reported,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        **{f"verdicts/{name!s}": count for name, count in sum_over_processes(batch.verdicts).items()},
    }


def spread(columns: Columns) -> dict[str, float]:
    """How rewards differ over the batch of all processes: ``reward/std``, and ``reward/zero_std``, the share of the
    groups of several rollouts in which all rewards are equal: a group's advantages are then 0."""
    if columns.reward is None or columns.group is None or len(columns.reward) < 2:
        return {}
    groups = [columns.reward[columns.group == one] for one in columns.group.unique()]
    several = [bool((one == one[0]).all()) for one in groups if len(one) > 1]
    std = float(columns.reward.std(correction=0))
    return {"reward/std": std, **({"reward/zero_std": sum(several) / len(several)} if several else {})}


def blind(context: Context) -> list[bool]:
    """Of the rows that a role is to score: in which of them it could see nothing."""
    own = len(context.prompts) - context.elsewhere
    nothing = context.no_privilege + context.too_long
    return [True] * nothing + [False] * (own - nothing)


def token_means(
    columns: Columns, outcomes: Sequence[Outcome], classes: tuple[list[str], Int[Tensor, "V"]]
) -> dict[str, float]:
    """Means of watched columns over the written tokens of all processes; of divergences also each token class's mean
    and its share of the sum (its mean × its count over all)."""
    names, of_token = classes[0], classes[1].to(columns.ids.device)
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}

    def add(name: str, values: Float[Tensor, "P"], mask: Bool[Tensor, "P"]) -> None:
        sums[name] = sums.get(name, 0.0) + float(values[mask].sum())
        counts[name] = counts.get(name, 0) + int(mask.sum())

    for outcome in outcomes:
        kinds = of_token[outcome.layout.at(columns.ids)]
        for name, values in outcome.token.items():
            kind, role = name.split("/", 1)
            if kind not in WATCHED:
                continue
            mask = outcome.layout.at(columns.seen((role,)))
            add(name, values, mask)
            if kind == "divergence":
                for i, label in enumerate(names):
                    add(f"{name}/{label}", values, mask & (kinds == i))
    sums, counts = sum_over_processes(sums), sum_over_processes(counts)
    means = {name: total / counts[name] for name, total in sums.items() if counts[name]}
    return means | divergence_shares(sums, names)


def divergence_shares(sums: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """``divergence_share/NAME/CLASS`` from sums by ``divergence/NAME`` and ``divergence/NAME/CLASS``."""
    return {
        f"divergence_share/{name.split('/', 1)[1]}/{label}": sums[f"{name}/{label}"] / total
        for name, total in sums.items()
        if name.startswith("divergence/") and f"{name}/{classes[0]}" in sums and total > 0
        for label in classes
    }
