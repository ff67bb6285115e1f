"""Preferences between whole answers: losses of their log-prob sums (DPO, KTO, BCO), made for ``SequenceTerm``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from selfteach.objective.statistics import Statistics

DPOLoss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero",
    "apo_down",
]  # fmt: skip
"""Losses of pairs by the names that TRL has for them."""
OfSums = Callable[[Float[Tensor, "U"]], Float[Tensor, ""]]
"""[U] log-prob sums of units (nats) → a 0-dim loss: what a ``SequenceTerm`` takes."""
SMOOTHED = ("sigmoid", "robust", "exo_pair")
"""Losses that know of labels which are wrong with some probability."""
PER_TOKEN = ("sigmoid_norm", "ipo")
"""Losses of an answer's mean over tokens, not its sum."""


# --- which rows are preferred to which --------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """J preferences between rows.

    ``unit`` [N] long: the unit of each row that takes part in one, counted from 0 (−1: in none), as
    ``Statistics.unit_sum`` and ``SequenceTerm`` take it. ``chosen``, ``rejected`` [J] long: the units of each pair. A
    row may take part in several.
    """

    unit: Int[Tensor, "N"]
    chosen: Int[Tensor, "J"]
    rejected: Int[Tensor, "J"]

    @classmethod
    def of(cls, rows: int, chosen: Int[Tensor, "J"], rejected: Int[Tensor, "J"]) -> Pairs:
        """Of row numbers out of ``rows``."""
        taken = torch.zeros(rows, dtype=torch.bool, device=chosen.device)
        taken[torch.cat([chosen, rejected])] = True
        unit = units_of(taken)
        return cls(unit, unit[chosen], unit[rejected])

    @classmethod
    def given(cls, stats: Statistics, among: Bool[Tensor, "N"] | None = None) -> Pairs:
        """Those that the batch names (``Statistics.pair``), if both rows are of the update and ``among`` [N]."""
        usable = stats.rows if among is None else stats.rows & among
        other = stats.pair
        paired = (other >= 0) & usable
        paired = paired & usable[other.clamp(min=0)] if len(paired) else paired
        return cls.of(len(other), paired.nonzero().squeeze(1), other[paired])

    @classmethod
    def of_groups(cls, stats: Statistics, among: Bool[Tensor, "N"] | None = None) -> Pairs:
        """The k-th right row of each group before its k-th wrong one, in the rows' order, as many as there are of both.

        Rows of the update that ``among`` [N] selects.
        """
        usable = stats.rows if among is None else stats.rows & among
        kinds = (usable & stats.correct, usable & ~stats.correct)
        found = [torch.zeros(2, 0, dtype=torch.long, device=usable.device)]
        for group in stats.group.unique():
            right, wrong = ((kind & (stats.group == group)).nonzero().squeeze(1) for kind in kinds)
            both = min(len(right), len(wrong))
            found.append(torch.stack([right[:both], wrong[:both]]))
        chosen, rejected = torch.cat(found, dim=1)
        return cls.of(len(usable), chosen, rejected)


def units_of(rows: Bool[Tensor, "N"]) -> Int[Tensor, "N"]:
    """[N] bool → [N] long: the selected rows numbered from 0, each a unit of its own; −1 for the others."""
    return torch.where(rows, rows.cumsum(dim=0) - 1, -1)


# --- losses of pairs --------------------------------------------------------------------------------------------

Side = Float[Tensor, "J"]


def _sigmoid(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    margin = beta * (chosen - rejected)
    return -(1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)


def _hinge(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return torch.relu(1 - beta * (chosen - rejected))


def _ipo(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def _robust(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    margin = beta * (chosen - rejected)
    return (flipped * logsigmoid(-margin) - (1 - flipped) * logsigmoid(margin)) / (1 - 2 * flipped)


def _exo_pair(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    margin = beta * (chosen - rejected)
    up = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-flipped))
    return up + (-margin).sigmoid() * (logsigmoid(-margin) - math.log(flipped))


def _nca_pair(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    down = logsigmoid(-beta * chosen) + logsigmoid(-beta * rejected)
    return -logsigmoid(beta * chosen) - 0.5 * down


def _bco_pair(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return -logsigmoid(beta * chosen) - logsigmoid(-beta * rejected)


def _sppo_hard(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def _apo_zero(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return (-beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def _apo_down(chosen: Side, rejected: Side, beta: float, flipped: float) -> Side:
    return (beta * chosen).sigmoid() + (-beta * (chosen - rejected)).sigmoid()


LOSSES: Mapping[str, Callable[[Side, Side, float, float], Side]] = {
    "sigmoid": _sigmoid, "sigmoid_norm": _sigmoid, "hinge": _hinge, "ipo": _ipo, "robust": _robust,
    "exo_pair": _exo_pair, "nca_pair": _nca_pair, "bco_pair": _bco_pair, "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero, "apo_down": _apo_down,
}  # fmt: skip


def dpo(
    pairs: Pairs,
    reference: Float[Tensor, "U"],
    *,
    beta: float = 0.1,
    loss: DPOLoss = "sigmoid",
    label_smoothing: float = 0.0,
    length: Float[Tensor, "U"] | Int[Tensor, "U"] | None = None,
) -> OfSums:
    """[U] log-prob sums of a policy → the mean over pairs of a loss of ρ = log π/π_ref (nats), one for each answer.

    "sigmoid" is −log σ( β (ρ_w − ρ_l) ) (arXiv 2305.18290, eq. 7); the others are those that TRL calls so.
    ``reference`` [U]: the sums under π_ref. ``label_smoothing``: the probability that a label is wrong. ``length`` [U]:
    tokens of each unit, by which "ipo" and "sigmoid_norm" divide ρ. Raises ValueError for a loss that lacks what it
    needs, and for a smoothing that it does not know.
    """
    refuse_smoothing(loss, label_smoothing)
    if loss in PER_TOKEN and length is None:
        raise ValueError(f"loss {loss!r} divides by each answer's tokens: give length")

    def total(sums: Float[Tensor, "U"]) -> Float[Tensor, ""]:
        ratio = sums - reference
        if loss in PER_TOKEN and length is not None:
            ratio = ratio / length.clamp(min=1)
        each = LOSSES[loss](ratio[pairs.chosen], ratio[pairs.rejected], beta, label_smoothing)
        return each.mean()

    return total


def refuse_smoothing(loss: str, smoothing: float) -> None:
    """ValueError for an unknown loss, or a label smoothing that it cannot have."""
    if loss not in get_args(DPOLoss):
        raise ValueError(f"loss must be one of {', '.join(get_args(DPOLoss))}, got {loss!r}")
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {smoothing}")
    if smoothing and loss not in SMOOTHED:
        raise ValueError(
            f"loss {loss!r} knows no label_smoothing: leave it out, or take {', '.join(SMOOTHED)}"
        )
    if loss == "exo_pair" and not smoothing:
        raise ValueError("loss 'exo_pair' needs a label_smoothing above 0, such as 1e-3")


def report_rewards(stats: Statistics, pairs: Pairs, reward: Float[Tensor, "U"]) -> None:
    """Put the mean implicit rewards β log π/π_ref [U] of both sides into the step's metrics, by TRL's names, with their
    mean margin and the share of pairs in which the chosen one's is higher; nothing where there is no pair."""
    chosen, rejected = reward[pairs.chosen], reward[pairs.rejected]
    if not len(chosen):
        return
    stats.report("rewards/chosen", chosen.mean())
    stats.report("rewards/rejected", rejected.mean())
    stats.report("rewards/margins", (chosen - rejected).mean())
    stats.report("rewards/accuracies", (chosen > rejected).to(reward.dtype).mean())


# --- losses of single answers -----------------------------------------------------------------------------------


def kto(
    good: Bool[Tensor, "U"],
    reference: Float[Tensor, "U"],
    *,
    baseline: Float[Tensor, ""] | float = 0.0,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> OfSums:
    """[U] log-prob sums of a policy → mean over units of λ (1 − σ( ±β (ρ − z₀) )), ρ = log π/π_ref (arXiv 2402.01306).

    + and λ_D = ``desirable_weight`` where ``good`` [U] bool, − and λ_U where not. ``reference`` [U]: the sums under
    π_ref. ``baseline``: z₀ in nats, a constant (``mismatched_kl``; with 0 it is TRL's "apo_zero_unpaired").
    """

    def total(sums: Float[Tensor, "U"]) -> Float[Tensor, ""]:
        gained = beta * (sums - reference - baseline)
        weight = torch.where(good, sums.new_tensor(desirable_weight), sums.new_tensor(undesirable_weight))
        return (weight * torch.where(good, -gained, gained).sigmoid()).mean()

    return total


def mismatched_kl(stats: Statistics, rows: Bool[Tensor, "N"], reference: str) -> Float[Tensor, ""]:
    """0-dim KTO's z₀ (nats): max(0, mean over ``rows`` [N] bool of log π/π_ref), rows whose answer was written to
    another prompt; 0 of none."""
    together = torch.where(rows, 0, -1)
    gained = (stats.unit_sum(together) - stats.unit_sum(together, reference)).sum()
    return (gained / rows.sum().clamp(min=1)).clamp(min=0)


def bco(
    good: Bool[Tensor, "U"],
    reference: Float[Tensor, "U"],
    *,
    beta: float = 0.1,
    shift: Float[Tensor, ""] | float | None = None,
) -> OfSums:
    """[U] log-prob sums of a policy → mean over good of −log σ(r − δ) + mean over the others of −log σ(δ − r).

    r = β log π/π_ref (arXiv 2404.04656). ``shift``: δ, a constant, such as a running mean (None: halfway between the
    two kinds' means of r, or the mean of the only kind there is). A kind that is missing adds nothing.
    """

    def total(sums: Float[Tensor, "U"]) -> Float[Tensor, ""]:
        reward = beta * (sums - reference)
        kinds = [one for one in (reward[good], reward[~good]) if len(one)]
        delta = torch.stack([one.mean() for one in kinds]).mean().detach() if shift is None else shift
        signed = torch.where(good, reward - delta, delta - reward)
        return torch.stack(
            [-logsigmoid(one).mean() for one in (signed[good], signed[~good]) if len(one)]
        ).sum()

    return total
