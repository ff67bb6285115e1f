"""What a step measures beside its loss: where, what, and the row that it makes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
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
from selfteach.objective.support import TopK
from selfteach.objective.top import top_ids
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import mean_over_processes, sum_over_processes
from selfteach.training.text import mismatch
from selfteach.training.text.contexts import Context
from selfteach.training.text.drawn import Drawn
from selfteach.training.text.update import TextBatch
from selfteach.training.text.written import text_metrics

WATCHED = ("divergence", "entropy", "mass", "overlap")
"""Kinds of columns whose means are metrics."""
TOP_K = 5
"""How many of the likeliest tokens are compared (Many Faces reports k from 1 to 50; a character has few rivals)."""


TURNS = 32
"""So many turns of an episode have a divergence of their own."""


def watched(
    teachers: Iterable[str], temperature: float, drawn: Drawn, listed: Mapping[str, int] | None = None
) -> dict[str, Quantity]:
    """Columns measured at the ``drawn`` tokens beside the loss, on the same logits (docs/metrics.md). ``listed``: of a
    teacher that hands over so many of its likeliest tokens what can be said of these."""
    own = drawn.of()
    columns = {
        "entropy/student": Quantity(partial(role_entropy, role=STUDENT, temperature=temperature), where=own),
        "mass/student": Quantity(partial(mass, role=STUDENT, temperature=temperature), where=own),
    }
    for name in teachers:
        seen, k = drawn.of(name), (listed or {}).get(name)
        functions: dict[str, Callable[[Positions], Float[Tensor, "P"]]] = {
            "divergence": partial(gap, teacher=name, temperature=temperature, k=k),
            "entropy": partial(role_entropy, role=name, temperature=temperature),
            "mass": partial(mass, role=name, temperature=temperature),
            "overlap": partial(overlap, teacher=name),
        }
        for kind in functions if k is None else measured_of_listed(k, temperature):
            columns[f"{kind}/{name}"] = Quantity(functions[kind], (STUDENT, name), seen)
    return columns


def measured_of_listed(k: int, temperature: float) -> list[str]:
    """What is measured of a teacher that hands over its k likeliest tokens: no entropy, no divergence at another
    temperature, and of shorter lists than ``TOP_K`` no more than the divergence."""
    return [*(["divergence"] if temperature == 1 else []), *(["mass", "overlap"] if k >= TOP_K else [])]


def gap(at: Positions, teacher: str, temperature: float, k: int | None = None) -> Float[Tensor, "P"]:
    """[P] unclipped forward KL(teacher‖student) in nats: the same measure whatever the recipe's own loss. ``k``: on the
    teacher's k likeliest tokens and all others as one event, which is never above it (None: on the vocabulary)."""
    if k is not None:
        cut, own = TopK(k, "teacher", "bucket"), at.log_probs(STUDENT, temperature)
        return ForwardKL().unrefused(*cut.restrict(own, at.log_probs(teacher, temperature, k)))
    student, theirs = (at.log_probs(role, temperature) for role in (STUDENT, teacher))
    found = (at.probs(teacher, temperature) * (theirs - student)).sum(-1)
    # Where a token is excluded (0 · −inf), and where something is NaN, which is refused.
    return ForwardKL()(student, theirs) if found.isnan().any() else found


def likeliest(at: Positions, role: str) -> Int[Tensor, "P k"]:
    """[P, k] a role's likeliest token ids, k = ``TOP_K`` or the whole of a smaller vocabulary."""
    k = min(TOP_K, at.logits[STUDENT].shape[-1])

    def find() -> Int[Tensor, "P k"]:
        return top_ids(at.log_probs(role, 1.0, k) if role in at.listed else at.logits[role], k)

    return at.once(("likeliest", role), find)


def mass(at: Positions, role: str, temperature: float) -> Float[Tensor, "P"]:
    """[P] the student's probability on the likeliest tokens of ``role`` (itself or a teacher)."""
    return at.log_probs(STUDENT, temperature).gather(-1, likeliest(at, role)).exp().sum(-1)


def overlap(at: Positions, teacher: str) -> Float[Tensor, "P"]:
    """[P] share of the student's likeliest tokens that are among the teacher's likeliest too (Many Faces)."""
    mine, theirs = likeliest(at, STUDENT), likeliest(at, teacher)
    return (mine.unsqueeze(-1) == theirs.unsqueeze(-2)).any(-1).to(at.logits[STUDENT].dtype).mean(-1)


def row_of(batch: TextBatch, classes: tuple[list[str], Int[Tensor, "V"]], seconds: float) -> dict[str, Any]:
    """What a step measured beside its losses, of all processes' rows (names, units and formulas: docs/metrics.md).

    ``classes``: names of token classes, and each token id's. ``seconds``: what the step took so far.
    """
    rows = batch.rows
    private = {field for role in batch.recipe.others.values() for field in role.view.fields}
    lengths = lengths_of(rows)
    # An episode counts once, whether its turns are rows of their own or not.
    episodes = first_of_each(rows)
    means = mean_over_processes(
        {
            "length/mean": lengths,
            "truncated": [not one.finished for one in episodes],
            "reward/mean": [one.grade.reward for one in episodes if one.grade is not None],
            **graded_numbers(episodes),
            **{f"unavailable/{name}": blind(context) for name, context in batch.contexts.items()},
            **{f"unscored/{name}": missing for name, missing in batch.unscored.items()},
        }
    )
    tokens = sum_over_processes({"tokens": sum(lengths)})["tokens"]
    return {
        **token_means(batch.looked, classes, batch.drawn),
        **turn_means(batch.looked, batch.drawn),
        **sampled_apart(batch),
        **text_metrics(rows, private),
        **{"reward/mean": 0.0, **means},
        **spread(batch.columns),
        **batch.reported,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        **{f"verdicts/{name!s}": count for name, count in sum_over_processes(batch.verdicts).items()},
    }


def sampled_apart(batch: TextBatch) -> Mapping[str, float]:
    """How far the sampler was from the policy, in log-probs and in optimizer steps, if it is another."""
    if batch.sampler_cap is None:
        return {}
    found = mismatch.metrics(batch.looked, batch.sampler_cap)
    if not found or not batch.staleness:
        return found
    return {**found, "sampling/staleness": sum(batch.staleness) / len(batch.staleness)}


def first_of_each(rows: Sequence[Trajectory]) -> list[Trajectory]:
    """The first row of each trajectory that is there; a row without a number is one by itself."""
    return [parts[0] for parts in by_trajectory(rows)]


def lengths_of(rows: Sequence[Trajectory]) -> list[int]:
    """How many tokens the policy wrote in each trajectory that is there, all its rows together."""
    return [sum(sum(one.mask) for one in parts) for parts in by_trajectory(rows)]


def by_trajectory(rows: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The rows of each trajectory, in their order."""
    found: dict[Hashable, list[Trajectory]] = {}
    for i, one in enumerate(rows):
        found.setdefault(("row", i) if one.trajectory is None else one.trajectory, []).append(one)
    return list(found.values())


def graded_numbers(rows: Sequence[Trajectory]) -> dict[str, list[float]]:
    """``grade/NAME``: what grades measured beside the reward (``Grade.numbers``), of the rows that have it."""
    found: dict[str, list[float]] = {}
    for one in rows:
        for name, value in ({} if one.grade is None else one.grade.numbers).items():
            found.setdefault(f"grade/{name}", []).append(value)
    return found


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
    outcomes: Sequence[Outcome], classes: tuple[list[str], Int[Tensor, "V"]], drawn: Drawn
) -> dict[str, float]:
    """Means of watched columns over the ``drawn`` tokens of all processes, and how many these are; of divergences also
    each token class's mean and its share of the sum (its mean × its count over all)."""
    ids = drawn.columns.ids
    names, of_token = classes[0], classes[1].to(ids.device)
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}

    def add(name: str, values: Float[Tensor, "P"], mask: Bool[Tensor, "P"]) -> None:
        sums[name] = sums.get(name, 0.0) + float(values[mask].sum())
        counts[name] = counts.get(name, 0) + int(mask.sum())

    at: dict[str, Bool[Tensor, "N T"]] = {}
    for outcome in outcomes:
        kinds = of_token[outcome.layout.at(ids)]
        for name, values in outcome.token.items():
            kind, role = name.split("/", 1)
            if kind not in WATCHED:
                continue
            if role not in at:
                at[role] = drawn.of(role)
            mask = outcome.layout.at(at[role])
            add(name, values, mask)
            if kind == "divergence":
                for i, label in enumerate(names):
                    add(f"{name}/{label}", values, mask & (kinds == i))
    sums, counts = sum_over_processes(sums), sum_over_processes(counts)
    means = {name: total / counts[name] for name, total in sums.items() if counts[name]}
    measured = {"tokens_measured": counts["entropy/student"]} if "entropy/student" in counts else {}
    return means | divergence_shares(sums, names) | measured


def turn_means(outcomes: Sequence[Outcome], drawn: Drawn) -> dict[str, float]:
    """``divergence_by_turn/NAME/TURN``: mean divergence from each teacher over the ``drawn`` tokens of each of the
    first ``TURNS`` turns, of all processes; {} where nothing has several turns."""
    turns, several = drawn.columns.turn, drawn.columns.turns or 0
    if turns is None or several < 2:
        return {}
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for outcome in outcomes:
        turn = outcome.layout.at(turns)
        for name, values in outcome.token.items():
            kind, role = name.split("/", 1)
            if kind != "divergence":
                continue
            seen = outcome.layout.at(drawn.of(role))
            for number in range(min(several, TURNS)):
                own = seen & (turn == number)
                key = f"divergence_by_turn/{role}/{number}"
                sums[key] = sums.get(key, 0.0) + float(values[own].sum())
                counts[key] = counts.get(key, 0.0) + int(own.sum())
    sums, counts = sum_over_processes(sums), sum_over_processes(counts)
    return {name: total / counts[name] for name, total in sums.items() if counts[name]}


def divergence_shares(sums: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """``divergence_share/NAME/CLASS`` from sums by ``divergence/NAME`` and ``divergence/NAME/CLASS``."""
    return {
        f"divergence_share/{name.split('/', 1)[1]}/{label}": sums[f"{name}/{label}"] / total
        for name, total in sums.items()
        if name.startswith("divergence/") and f"{name}/{classes[0]}" in sums and total > 0
        for label in classes
    }
