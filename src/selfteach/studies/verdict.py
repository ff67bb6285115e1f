"""When a claim counts as reproduced: rules, looks at a growing number of seeds, and a whole table of claims.

*A claim* carries a rule, which turns paired differences into one-sided p-values of Student's t, one for each verdict
that it can give. *Looks*: seeds come in blocks, and a claim is looked at with 4, 8, 16 … of them. Every look has a
share of the error that is allowed (``share``; all shares together are 1), so its p-value is divided by that share, and
the least of them over the looks so far is the claim's: the probability that one of a verdict which is false is ever
below α is at most α, whenever one stops (union bound; at each look the t test is exact for normal differences). It only
falls as seeds are added. *A table*: Benjamini–Hochberg over all its claims; p-values that only fall only add
verdicts, so that a claim which is decided needs no further seeds. It bounds the share of false verdicts where the
claims' p-values are independent or depend on each other positively; claims that share a side need not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import ClassVar, Literal, Protocol

from selfteach.checks import require
from selfteach.studies.student import quantile, tail

Leaning = Literal["reproduced", "refuted", "equal"]
Verdict = Leaning | Literal["undecided", "no verdict"]

RATE = 0.05
"""Of the verdicts in a table the share that may be false, on average; 1 - RATE is the confidence of an interval."""
FIRST_LOOK = 4
MOST_SEEDS = 512
"""The last look within what ``--seeds`` can ask for (``settings.Few``)."""


def looks(most: int) -> list[int]:
    """The numbers of seeds, up to ``most``, at which claims are looked at: 4, 8, 16, each twice the one before."""
    return list(takewhile(lambda n: n <= most, (FIRST_LOOK * 2**k for k in count())))


def share(number: int) -> float:
    """The share of the allowed error that look ``number`` (0, 1, …) has: a quarter each of the first three, then halves
    of what is left."""
    return 0.25 if number < 3 else 0.25 / 2 ** (number - 2)


class Rule(Protocol):
    """A claim's relation of its two variants, and what speaks for and against it."""

    @property
    def relation(self) -> str:
        """What stands between the two variants in a table, as in "exceeds"."""

    @property
    def says(self) -> str:
        """When the verdict is which, in a sentence for the page of results."""

    def p_values(self, differences: Sequence[float]) -> Mapping[Leaning, float]:
        """One-sided p-values on two or more ``differences``, the metric of ``higher`` minus that of ``lower``, one a
        seed: small where the verdict is to be given. Whatever the true mean, the doubled p-values of the verdicts that
        are false of it are below α, any of them, with a probability of at most α."""

    def distance(self, mean: float) -> float:
        """How far a mean difference lies from where the verdict that it speaks for would be false (≥ 0)."""


@dataclass(frozen=True)
class Exceeds:
    """The one exceeds the other: Student's t of the differences, paired by seed."""

    margin: float | None = None
    """In the metric's unit: a difference below it, either way, is none that matters, and sides that are shown to differ
    by less are "equal" (0: never; none: ``study.MARGIN`` where the metric is an accuracy, else never)."""

    relation: ClassVar[str] = "exceeds"

    def __post_init__(self) -> None:
        require(self.margin is None or self.margin >= 0, f"a margin must be at least 0, got {self.margin}")

    @property
    def says(self) -> str:
        told = "*exceeds*: reproduced, refuted: the mean difference, paired by seed, is above, below 0 by Student's t"
        if not self.margin:
            return f"{told}."
        return (
            f"{told}; equal: neither was shown, but that it lies between −{self.margin:g} and {self.margin:g} (two "
            "one-sided tests); a smaller advance may be there."
        )

    def p_values(self, differences: Sequence[float]) -> Mapping[Leaning, float]:
        mean, error = mean_and_error(differences)
        found: dict[Leaning, float] = {
            "reproduced": beyond(mean, error, differences),
            "refuted": beyond(-mean, error, differences),
        }
        if self.margin:
            found["equal"] = beyond(self.margin - abs(mean), error, differences)
        return found

    def distance(self, mean: float) -> float:
        return max(abs(mean), (self.margin or 0.0) - abs(mean))


@dataclass(frozen=True)
class Within:
    """The two differ by no more than ``tolerance`` (in the metric's unit): two one-sided tests."""

    tolerance: float
    says: ClassVar[str] = (
        "*within*: reproduced where the mean difference, paired by seed, is above minus the tolerance and below the "
        "tolerance by Student's t (two one-sided tests), refuted where it is beyond the tolerance."
    )

    def __post_init__(self) -> None:
        require(self.tolerance > 0, f"a tolerance must be above 0, got {self.tolerance}")

    @property
    def relation(self) -> str:
        return f"within {self.tolerance:g} of"

    def p_values(self, differences: Sequence[float]) -> Mapping[Leaning, float]:
        mean, error = mean_and_error(differences)
        inside = self.tolerance - abs(mean)  # the nearer bound is the harder one
        return {
            "reproduced": beyond(inside, error, differences),
            "refuted": beyond(-inside, error, differences),
        }

    def distance(self, mean: float) -> float:
        return abs(self.tolerance - abs(mean))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of two or more values."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def beyond(distance: float, error: float, values: Sequence[float]) -> float:
    """P(T > distance / error); a half where the values show no spread: nothing is known of it then."""
    return tail(distance / error if error else 0.0, len(values) - 1)


def spread_out(values: Sequence[float], least: float) -> list[float]:
    """The values about the same mean, drawn apart until their standard deviation is ``least``; as they are where it is
    no less. Values that are all equal go half up and half down (of an odd number the last one stays)."""
    if len(values) < 2 or (deviation := statistics.stdev(values)) >= least:
        return list(values)
    mean = statistics.fmean(values)
    if deviation:
        return [mean + (one - mean) * least / deviation for one in values]
    halves = len(values) // 2
    step = least * math.sqrt((len(values) - 1) / (2 * halves))
    return [mean + step * ((i < halves) - (halves <= i < 2 * halves)) for i in range(len(values))]


# --- one claim


@dataclass(frozen=True)
class Evidence:
    """What the looks at a claim have come to."""

    values: Mapping[Leaning, float] = field(default_factory=dict)
    """Verdict → its p-value, doubled and over the look's share, the least of the looks so far."""
    seeds: int = 0
    """Of the last look (0: there was none)."""

    @property
    def p(self) -> float:
        """The least of them; 1 before the first look."""
        return min([1.0, *self.values.values()])

    def verdict(self, level: float) -> Leaning | None:
        """The verdict whose p-value is at most ``level``: a direction that was shown before "equal", so that no further
        seeds take it back."""
        shown = [one for one, p in self.values.items() if p <= level]
        ways: list[Leaning] = [one for one in shown if one != "equal"]
        return min(ways or shown, key=self.values.__getitem__, default=None)


def evidence(rule: Rule, differences: Sequence[float], resolution: float = 0.0) -> Evidence:
    """The evidence of ``differences``, one a seed in order; those behind the last whole look do not count. They are
    taken to spread by ``resolution`` at least: equal ones are no proof that seeds do not matter."""
    least: dict[Leaning, float] = {}
    known = looks(len(differences))
    for number, seen in enumerate(known):
        for one, p in rule.p_values(spread_out(differences[:seen], resolution)).items():
            least[one] = min(least.get(one, math.inf), 2 * p / share(number))
    return Evidence(least, known[-1] if known else 0)


def interval(
    differences: Sequence[float], rate: float = RATE, resolution: float = 0.0
) -> tuple[float, float] | None:
    """A 1 - ``rate`` interval of the mean difference at the last whole look, which accounts for the looks: it holds
    whenever one stops. None before the first look. ``resolution``: as in ``evidence``."""
    known = looks(len(differences))
    if not known:
        return None
    mean, error = mean_and_error(spread_out(differences[: known[-1]], resolution))
    reach = quantile(rate * share(len(known) - 1) / 2, known[-1] - 1) * error
    return mean - reach, mean + reach


def seeds_needed(
    rule: Rule, differences: Sequence[float], level: float, resolution: float = 0.0
) -> int | None:
    """At how many seeds the look would decide at ``level``, if effect and spread stay what they are in
    ``differences`` (two or more). None: not within ``MOST_SEEDS``. ``resolution``: as in ``evidence``."""
    mean, deviation = statistics.fmean(differences), max(resolution, statistics.stdev(differences))
    for number, seeds in enumerate(looks(MOST_SEEDS)):
        ratio = rule.distance(mean) * math.sqrt(seeds) / deviation if deviation else math.inf
        if rule.distance(mean) and 2 * tail(ratio, seeds - 1) / share(number) <= level:
            return seeds
    return None


# --- a table


def level_of(p_values: Sequence[float], rate: float = RATE) -> float:
    """Benjamini–Hochberg: the level at which p-values stand so that of those that do, at most ``rate`` are false on
    average; at least what one alone would have to reach, rate / number."""
    ordered = sorted(p_values)
    number = max(1, len(ordered))
    standing = [i for i, p in enumerate(ordered, start=1) if p <= rate * i / number]
    return rate * max(standing, default=1) / number
