"""When a claim counts as reproduced: the rule that turns measured differences into a verdict.

A claim carries its rule, so another rule (one that may look several times, or that knows of several claims) is another
class here and a word in the study; nothing else asks how a verdict came about.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from selfteach.checks import require

Verdict = Literal["reproduced", "refuted", "undecided"]

# fmt: off
ONE_SIDED_95 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)
# fmt: on
"""Student's t at 1, 2, … 30 degrees of freedom; beyond these the last one, which is a little too strict."""


class Rule(Protocol):
    """A claim's relation of its two variants, and when it is seen."""

    @property
    def relation(self) -> str:
        """What stands between the two variants in a table, as in "exceeds"."""

    @property
    def says(self) -> str:
        """When the verdict is which, in a sentence for the page of results."""

    def verdict(self, differences: Sequence[float]) -> Verdict:
        """The verdict on ``differences``, the metric of ``higher`` minus that of ``lower``, one a seed. They are
        finite (``Answer`` refuses others)."""


@dataclass(frozen=True)
class Exceeds:
    """The one exceeds the other: Student's one-sided 95 % bound on the mean difference, paired by seed."""

    relation: ClassVar[str] = "exceeds"
    says: ClassVar[str] = (
        "*exceeds*: reproduced, refuted: the mean difference, paired by seed, is beyond Student's one-sided 95 % "
        "bound, in the claim's direction or against it; undecided: neither."
    )

    def verdict(self, differences: Sequence[float]) -> Verdict:
        mean, bound = statistics.fmean(differences), margin(differences)
        return "reproduced" if mean > bound else "refuted" if mean < -bound else "undecided"


@dataclass(frozen=True)
class Within:
    """The two differ by no more than ``tolerance`` (in the metric's unit)."""

    tolerance: float
    says: ClassVar[str] = (
        "*within*: reproduced where both one-sided 95 % bounds on the mean difference, paired by seed, lie within the "
        "tolerance, refuted where they lie beyond it; undecided: neither."
    )

    def __post_init__(self) -> None:
        require(self.tolerance > 0, f"a tolerance must be above 0, got {self.tolerance}")

    @property
    def relation(self) -> str:
        return f"within {self.tolerance:g} of"

    def verdict(self, differences: Sequence[float]) -> Verdict:
        mean, bound = abs(statistics.fmean(differences)), margin(differences)
        if mean + bound <= self.tolerance:
            return "reproduced"
        return "refuted" if mean - bound > self.tolerance else "undecided"


def margin(values: Sequence[float]) -> float:
    """Half-width of the one-sided 95 % interval of the mean of ``values``; infinite for a single one, which shows no
    spread."""
    if len(values) < 2:
        return math.inf
    student = ONE_SIDED_95[min(len(values) - 1, len(ONE_SIDED_95)) - 1]
    return student * statistics.stdev(values) / math.sqrt(len(values))
