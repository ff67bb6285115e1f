"""Nodes: positions of rollouts with candidate next tokens, and every loss's logit gradient on them (Unmasking OPD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.divergence import JSD, Divergence, ForwardKL, ReverseKL
from selfteach.objective.engine import by_autograd, weight_at
from selfteach.objective.ideal import within
from selfteach.objective.plan import Weighted, plan
from selfteach.objective.positions import Chunk, Positions, chunks, positions_of
from selfteach.probe.scene import Scene

LOSSES: Mapping[str, Divergence] = {
    "forward KL": ForwardKL(),
    "reverse KL": ReverseKL(),
    "JSD ½": JSD(0.5),
}
OWN = ("recipe", "its own loss")
CHUNK = 256

Way = tuple[str, str]
"""(teacher, loss)"""


@dataclass(frozen=True)
class Nodes:
    """n nodes with up to C candidates each, padded with chance 0.

    ``row``, ``step`` [n] · ``tokens``, ``chance``, ``kept`` [n, C]: candidates, p renormalized on them, which are
    real · ``coverage`` [n] p's mass on them · ``descent``: (teacher, loss) → [n, C] −∂L/∂z at that fixed mass.
    """

    row: Int[Tensor, "n"]
    step: Int[Tensor, "n"]
    tokens: Int[Tensor, "n C"]
    chance: Float[Tensor, "n C"]
    kept: Bool[Tensor, "n C"]
    coverage: Float[Tensor, "n"]
    descent: Mapping[Way, Float[Tensor, "n C"]]

    def take(self, which: Bool[Tensor, "n"]) -> Nodes:
        return combined([self], lambda columns: columns[0][which])


def find_nodes(scene: Scene, *, count: int, candidates: int, min_prob: float) -> Nodes:
    """The ``count`` positions of highest student entropy in each rollout, with everybody's gradients there."""
    recipe = scene.recipe
    stats = scene.statistics(recipe.rollouts.temperature, scene.teachers)
    select = highest(stats.entropy(), stats.mask, count)
    weighted = own_loss(scene)
    parts = []
    for part in scene.scoring.parts():
        batch = scene.scoring.batch(part)
        for chunk in chunks(batch, batch.layout.at(select), CHUNK):
            at = positions_of(batch, chunk, [STUDENT, *scene.teachers])
            parts.append(gradients_at(scene, chunk, at, weighted, candidates, min_prob))
    return combined(parts, torch.cat)


def own_loss(scene: Scene) -> Sequence[Weighted]:
    """The recipe's own terms on these rollouts; none, said aloud, where they read what only its own rollout writes."""
    recipe = scene.recipe
    try:
        terms = recipe.summands(scene.statistics(recipe.temperature, recipe.active(0)))
        return plan(terms, scene.scoring.columns)
    except ValueError as problem:
        scene.learner.progress.say(f"the recipe's own loss is left out: {' '.join(str(problem).split())}")
        return []


def highest(column: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], count: int) -> Bool[Tensor, "N T"]:
    """[N, T] bool: the ``count`` positions of each row where the masked column is highest."""
    ranked = torch.where(mask, column, -torch.inf).topk(min(count, column.shape[1]), dim=1).indices
    return torch.zeros_like(mask).scatter_(1, ranked, True) & mask


@torch.no_grad()
def gradients_at(
    scene: Scene,
    chunk: Chunk,
    at: Positions,
    weighted: Sequence[Weighted],
    candidates: int,
    min_prob: float,
) -> Nodes:
    """At most ``candidates`` next tokens, those that somebody gives ``min_prob`` or more, and the gradients on them."""
    columns = scene.scoring.columns
    available = {name: columns.seen((name,))[chunk.row, chunk.step] for name in scene.teachers}
    temperature = scene.recipe.rollouts.temperature
    student = at.log_probs(STUDENT, temperature)
    likely = student.exp()
    for name, seen in available.items():
        likely = torch.maximum(likely, at.log_probs(name, temperature).exp() * seen.unsqueeze(1))
    likelihood, tokens = likely.topk(min(candidates, likely.shape[1]), dim=1)
    kept = (likelihood >= min_prob).cpu()
    mass = student.exp().gather(1, tokens).cpu().double() * kept
    chance = mass / mass.sum(1, keepdim=True)

    def at_candidates(gradient: Float[Tensor, "P V"]) -> Float[Tensor, "P C"]:
        return -within(gradient.gather(1, tokens).cpu().double() * kept, chance)

    descent: dict[Way, Float[Tensor, "n C"]] = {}
    for name, seen in available.items():
        theirs = at.log_probs(name, scene.recipe.temperature)
        own = at.log_probs(STUDENT, scene.recipe.temperature)
        for loss, divergence in LOSSES.items():
            gradient = divergence.logit_gradient(own, theirs) * seen.unsqueeze(1)
            descent[scene.shown(name), loss] = at_candidates(gradient)
    # A loss's denominators make its gradient small: undone, so that only a true zero looks like one.
    if weighted:
        descent[OWN] = at_candidates(own_gradient(at, weighted) * scene.scoring.columns.mask.sum())
    row, step = chunk.row.cpu(), chunk.step.cpu()
    return Nodes(row, step, tokens.cpu(), chance, kept, mass.sum(1), descent)


def own_gradient(at: Positions, weighted: Sequence[Weighted]) -> Float[Tensor, "P V"]:
    """[P, V] the gradient of the recipe's whole loss in the student's logits; 0 where no term selects."""
    total = torch.zeros_like(at.logits[STUDENT])
    for one in weighted:
        chosen = one.coefficients[at.row, at.step] != 0
        if one.term.role == STUDENT and one.term.trains == "logits" and chosen.any():
            part = at.take(chosen)
            _, gradient = one.term.logit_gradient(part) or by_autograd(one.term, part)
            total[chosen] += gradient * weight_at(one, part).to(total.dtype).unsqueeze(1)
    return total


def combined(
    parts: Sequence[Nodes], change: Callable[[list[Shaped[Tensor, "..."]]], Shaped[Tensor, "..."]]
) -> Nodes:
    """Nodes whose every column is ``change`` of the parts' columns."""
    return Nodes(
        row=change([one.row for one in parts]),
        step=change([one.step for one in parts]),
        tokens=change([one.tokens for one in parts]),
        chance=change([one.chance for one in parts]),
        kept=change([one.kept for one in parts]),
        coverage=change([one.coverage for one in parts]),
        descent={way: change([one.descent[way] for one in parts]) for way in parts[0].descent},
    )
