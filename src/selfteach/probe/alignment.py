"""Gradient alignment: does a distillation loss push a token where the student's own success lies? (Unmasking OPD)

At chosen positions ("nodes") of the student's rollouts each candidate next token is forced and completed by the
student; the share of right answers estimates V_j. The gradient that most increases success is then known, and its
cosine with each loss's gradient, A, says where that loss helps (A > 0) and where it hurts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from selfteach.checks import require
from selfteach.objective.ideal import TINY, cosine, ideal_gradient
from selfteach.probe.branch import Branch, successes
from selfteach.probe.finding import Cell, Finding, Looked, Table, Token
from selfteach.probe.interval import (
    Array,
    Flags,
    Interval,
    bootstrap,
    difference_interval,
    mean_interval,
    ratio,
    share_interval,
)
from selfteach.probe.nodes import Nodes, Way, find_nodes
from selfteach.probe.scene import Scene
from selfteach.settings import PositiveRows, UnitInterval, settings

SHOWN_LOSS = "reverse KL"
MOST_SHOWN = 16
THIRDS = ("early third", "middle third", "late third")
COSINE = (-1.0, 1.0)


@settings
class Knobs:
    """How closely the rollouts are looked at."""

    nodes: PositiveRows = 4
    """Positions looked at in each rollout: those where the student's entropy is highest."""
    candidates: PositiveRows = 6
    """Most next tokens forced at a node: the likeliest to anybody."""
    min_prob: UnitInterval = 0.01
    """A candidate must be this likely to the student or to a teacher."""
    completions: PositiveRows = 16
    """The student's completions of each forced token (even: two halves correct for their noise)."""
    views: tuple[str, ...] = ()
    """Views to compare with the recipe's own teachers, such as plain, partial, answer, sibling, field:NAME."""

    def __post_init__(self) -> None:
        require(
            self.candidates >= 2, "candidates must be at least 2: a gradient needs something to choose from"
        )
        require(self.min_prob < 1, "min_prob must be below 1")
        require(
            self.completions >= 2 and self.completions % 2 == 0, "completions must be even and at least 2"
        )


@dataclass(frozen=True)
class Aligned:
    """Nodes with what the continuations shown: ``value`` [n, C] shares of success, ``ideal`` [n, C] the gradient that
    most increases it, ``halves`` the same from either half of the completions, ``score`` way → [n] cosine A."""

    nodes: Nodes
    value: Float[Tensor, "n C"]
    ideal: Float[Tensor, "n C"]
    halves: tuple[Float[Tensor, "n C"], Float[Tensor, "n C"]]
    score: Mapping[Way, Float[Tensor, "n"]]


def probe(scene: Scene, knobs: Knobs) -> Finding:
    """Choose nodes, force their candidates, and compare every loss's gradient with the ideal one."""
    found = find_nodes(scene, count=knobs.nodes, candidates=knobs.candidates, min_prob=knobs.min_prob)
    nodes = found.take(found.kept.sum(1) >= 2)
    branches = [
        Branch(scene.rollouts[row], step, token)
        for row, step, tokens, kept in zip(
            nodes.row.tolist(), nodes.step.tolist(), nodes.tokens.tolist(), nodes.kept.tolist(), strict=True
        )
        for token, real in zip(tokens, kept, strict=True)
        if real
    ]
    scene.learner.progress.say(f"completing {len(branches)} forced tokens {knobs.completions} times each")
    outcomes = successes(
        scene.learner.policy,
        scene.learner.task,
        branches,
        scene.sampling,
        completions=knobs.completions,
        batch_size=scene.batch_size,
    )
    return finding(scene, knobs, aligned(nodes, outcomes), looked_at=len(found.row))


def aligned(nodes: Nodes, outcomes: Float[Tensor, "B M"]) -> Aligned:
    """``outcomes`` [B, M] in the order of the kept candidates, row by row."""
    every = outcomes.new_zeros(*nodes.kept.shape, outcomes.shape[1])
    every[nodes.kept] = outcomes
    half = outcomes.shape[1] // 2
    value, first, second = every.mean(-1), every[..., :half].mean(-1), every[..., half:].mean(-1)
    ideal = ideal_gradient(nodes.chance, value)
    halves = (ideal_gradient(nodes.chance, first), ideal_gradient(nodes.chance, second))
    score = {way: cosine(descent, ideal) for way, descent in nodes.descent.items()}
    return Aligned(nodes, value, ideal, halves, score)


# --- what is shown


def finding(scene: Scene, knobs: Knobs, result: Aligned, looked_at: int) -> Finding:
    nodes = result.nodes
    lengths = scene.scoring.columns.mask.sum(1).cpu()
    place = ((nodes.step + 0.5) / lengths[nodes.row]).numpy()
    groups = np.asarray(scene.groups)[nodes.row.numpy()]
    correct = np.asarray(scene.correct)[nodes.row.numpy()]
    about: dict[str, Cell] = {
        "rollouts": len(scene.rollouts),
        "right rollouts": sum(scene.correct),
        "positions looked at": looked_at,
        "nodes (two candidates or more)": len(nodes.row),
        "nodes where success hangs on the token": int((result.ideal.norm(dim=1) > TINY).sum()),
        "forced tokens": int(nodes.kept.sum()),
        "completions of each": knobs.completions,
        "the student's mass on the candidates": share_interval(nodes.coverage.numpy(), groups),
    }
    tables = [
        by_outcome(result, groups, correct),
        pooled_table(result, groups, correct, seen_rows(scene, nodes)),
        by_place(result, groups, place),
    ]
    rows = node_rows(scene, result, groups, place)
    return Finding("alignment", "Gradient alignment", about, tables, rows, looked(scene, rows))


def node_rows(scene: Scene, result: Aligned, groups: Array, place: Array) -> list[dict[str, Any]]:
    """Each node with its candidates and scores, for the JSON file and the page."""
    nodes, show = result.nodes, scene.learner.policy.renderer.show
    return [
        {
            "rollout": row,
            "prompt": int(groups[i]),
            "step": int(nodes.step[i]),
            "position": float(place[i]),
            "correct": scene.correct[row],
            "token": show([scene.rollouts[row].ids[int(nodes.step[i])]]),
            "candidates": [
                {"token": show([token]), "p": p, "success": v}
                for token, p, v, real in zip(
                    nodes.tokens[i].tolist(), nodes.chance[i].tolist(), result.value[i].tolist(),
                    nodes.kept[i].tolist(), strict=True,
                )
                if real
            ],
            "alignment": {" / ".join(way): float(score[i]) for way, score in result.score.items()},
        }
        for i, row in enumerate(nodes.row.tolist())
    ]  # fmt: skip


def by_outcome(result: Aligned, groups: Array, correct: Flags) -> Table:
    def row(way: Way, score: Float[Tensor, "n"]) -> dict[str, Cell]:
        values = score.numpy()
        return {
            "teacher": way[0],
            "loss": way[1],
            "A, right rollouts": mean_interval(values[correct], groups[correct], bounds=COSINE),
            "A, wrong rollouts": mean_interval(values[~correct], groups[~correct], bounds=COSINE),
            "wrong − right": difference_interval(values, ~correct, groups, bounds=(-2.0, 2.0)),
        }

    note = (
        "Mean cosine of a loss's descent direction with the gradient that most increases success, over nodes where "
        "both exist; 95 % bootstrap interval over prompts. Noise in the success shares pulls it to 0."
    )
    rows = [row(way, score) for way, score in result.score.items()]
    return Table("Alignment A by outcome of the rollout", note, rows)


def seen_rows(scene: Scene, nodes: Nodes) -> dict[str, Flags]:
    """Teacher as shown → [n] whether it had something to see there."""
    rows = nodes.row.numpy()
    return {scene.shown(name): np.asarray(scene.contexts[name].available)[rows] for name in scene.teachers}


def pooled_table(result: Aligned, groups: Array, correct: Flags, seen: Mapping[str, Flags]) -> Table:
    def row(way: Way, descent: Float[Tensor, "n C"]) -> dict[str, Cell]:
        pooled = partial(pooled_interval, result, descent, groups)
        there = seen.get(way[0], np.ones(len(correct), dtype=bool))
        return {
            "teacher": way[0],
            "loss": way[1],
            "all": pooled(there),
            "right rollouts": pooled(there & correct),
            "wrong rollouts": pooled(there & ~correct),
        }

    note = (
        "Cosine of the two gradients stacked over all nodes where the teacher sees something: a node counts by how "
        "much hangs on it. The ideal one's length comes from two halves of the completions, so noise leaves it be."
    )
    rows = [row(way, descent) for way, descent in result.nodes.descent.items()]
    return Table("Pooled alignment", note, rows)


def pooled_interval(result: Aligned, descent: Float[Tensor, "n C"], groups: Array, where: Flags) -> Interval:
    """Σ d·g / √(Σ d·d · Σ g₁·g₂) over the nodes ``where``: d descent, g ideal, g₁ and g₂ ideal from either half."""
    along = (descent * result.ideal).sum(1).numpy()[where]
    length = (descent * descent).sum(1).numpy()[where]
    ideal = (result.halves[0] * result.halves[1]).sum(1).numpy()[where]

    def statistic(weight: Array) -> float:
        product = (weight @ length) * (weight @ ideal)
        return ratio(weight @ along, np.sqrt(product)) if product > TINY**2 else np.nan

    return bootstrap(statistic, groups[where], bounds=COSINE)


def by_place(result: Aligned, groups: Array, place: Array) -> Table:
    third = np.minimum((place * 3).astype(int), 2)

    def row(way: Way, score: Float[Tensor, "n"]) -> dict[str, Cell]:
        parts = [
            mean_interval(score.numpy()[third == i], groups[third == i], bounds=COSINE)
            for i in range(len(THIRDS))
        ]
        return {"teacher": way[0], "loss": way[1], **dict(zip(THIRDS, parts, strict=True))}

    rows = [row(way, score) for way, score in result.score.items()]
    return Table("Alignment A by position in the rollout", "Position (t − ½)/|y|, in thirds.", rows)


def looked(scene: Scene, rows: Sequence[Mapping[str, Any]]) -> list[Looked]:
    """The first rollouts, wrong ones first, with their nodes marked."""
    chat = scene.learner.policy.renderer
    order = sorted({row["rollout"] for row in rows}, key=lambda i: (scene.correct[i], i))[:MOST_SHOWN]
    shown = []
    for i in order:
        own = [row for row in rows if row["rollout"] == i]
        place = {row["step"]: k for k, row in enumerate(own)}
        tokens = [Token(chat.show([token]), place.get(t)) for t, token in enumerate(scene.rollouts[i].ids)]
        table = Table("", "", [node_row(row) for row in own])
        shown.append(Looked(scene.rollouts[i].example.problem, scene.correct[i], tokens, table))
    return shown


def node_row(row: Mapping[str, Any]) -> dict[str, Cell]:
    candidates, scores = row["candidates"], row["alignment"]
    shown = ", ".join(f"{one['token']} p={one['p']:.2f} V={one['success']:.2f}" for one in candidates)
    kept = {way: score for way, score in scores.items() if way.endswith(SHOWN_LOSS)}
    return {"position": str(row["step"]), "token": str(row["token"]), **kept, "candidates": shown}
