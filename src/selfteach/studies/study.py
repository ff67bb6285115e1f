"""What papers claim, put so that runs of a small world can answer: this variant does better than that one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.importing import is_reference
from selfteach.studies.verdict import Exceeds, Rule
from selfteach.words import given_names

REDUCTIONS = ("last", "first", "mean", "max", "auc")
"""Which number of a run's rows: the last that was measured, the first, their mean, their maximum, or the area under the
curve (trapezoids over the steps at which it was measured) divided by the steps that it spans: a mean height."""
HEADLINE = "eval/headline"
MARGIN = 0.03
"""A difference of accuracy, either way, below which sides count as equal. Papers call less than this an advance too:
"equal" does not refute them."""
AREA = f"auc {HEADLINE}"
"""Who is ahead on the way: of claims in worlds where every side ends near 1."""
RATES = ("--lr x0.3|x1|x3",)
"""The grid of a claim that names none: a third, one and three times the learning rate that each side's words mean."""


@dataclass(frozen=True)
class Works:
    """What a side must reach for its own job to count as done, in the mean over the seeds: ``metric`` above ``above``
    by more than ``by``. The default: at the end it is better than the untrained model, by more than evaluations
    differ by chance. Raises ``UserError`` for a metric that is none."""

    metric: str = HEADLINE
    """As in ``Claim.metric``."""
    above: str | float = f"first {HEADLINE}"
    """Another metric of the same run, or a number."""
    by: float = 0.02

    def __post_init__(self) -> None:
        for one in self.metrics:
            require_metric(one, "works:")

    @property
    def metrics(self) -> list[str]:
        return [self.metric, *([self.above] if isinstance(self.above, str) else [])]

    @property
    def says(self) -> str:
        least = f" by more than {self.by:g}" if self.by else ""
        return f"{self.metric} above {self.above}{least}"


def falls(metric: str) -> Works:
    """The job of a side whose ``metric`` is a distance or a loss: that it ends below where it began."""
    return Works(f"first {metric}", metric, 0.0)


@dataclass(frozen=True)
class Claim:
    """One statement, as two variants of ``selfteach train`` and what is compared of them.

    Expected: ``metric`` of ``higher`` stands to that of ``lower`` as ``rule`` says. Raises ``UserError`` for a claim
    that no runs can answer.
    """

    says: str
    """The paper's claim in one sentence, with its figure."""
    variants: Mapping[str, str]
    """Label → the words after ``selfteach train`` of one run (seed and folder are added). ``{variant LABEL}`` stands
    for the folder of another variant of the same seed, whose trained model is in its ``model``."""
    higher: str
    """The label of the variant that should be ahead (or, within a tolerance, one of the two)."""
    lower: str
    """The label of the other."""
    metric: str = "eval/headline"
    """A name of docs/metrics.md (or ``summary/NAME`` of the run's summary.json), alone or after one of ``REDUCTIONS``,
    as in "mean divergence/teacher"; without one the last. "auc eval/headline" wants words with ``--eval-every``."""
    rule: Rule = field(default_factory=Exceeds)
    """When the claim counts as reproduced, refuted or equal. Of an ``Exceeds`` that leaves its margin open it is
    ``MARGIN`` where the metric is an accuracy."""
    withdrawn: str = ""
    """Why no verdict is given, whatever the runs say: a side that does not do its own job (empty: one is given)."""
    looked: str = ""
    """What a second look found, as a verdict against the claim asks for one: in the task, the settings, a fault (empty:
    nobody has looked). It stands beside the verdict."""
    sweep: Sequence[str] | None = None
    """Settings that are tried for both sides alike, on seeds that are not reported: words such as "--lr 1e-4|x1|3e-3",
    where x3 is three times what the side's own words mean; of several every combination. (): neither side is tuned.
    None: ``RATES``, unless the metric is the first of a run, which no learning rate changes."""
    tuned_by: str = HEADLINE
    """The metric by which each side's settings are chosen from ``sweep``; ``better`` says which way."""
    better: Literal["higher", "lower"] = "higher"
    """Which way ``tuned_by`` is better; "lower": the headline is a distance or a loss, not an accuracy."""
    works: Mapping[str, Works] = field(default_factory=dict)
    """Label → what a side must reach; a side that does not is dead, and the claim gets no verdict. Both sides that are
    not named must be better than the untrained model where the metric is one of the headline."""
    may_fail: Sequence[str] = ()
    """Sides of which the claim itself says that they fail: nothing is asked of them but by ``works``."""

    def __post_init__(self) -> None:
        if isinstance(self.rule, Exceeds) and self.rule.margin is None:
            margin = MARGIN if self.is_of_accuracy else 0.0
            object.__setattr__(self, "rule", replace(self.rule, margin=margin))
        for label, told in self.variants.items():
            require(understood(told), f"{self.about} variant {label!r} is no list of words: {told!r}")
        for label in (self.higher, self.lower):
            require(label in self.variants, f"{self.about} no variant is called {label!r}{self.near(label)}")
        for label in self.variants:
            self.depth(label)
        one, other = (self.variants[label].split() for label in (self.higher, self.lower))
        require(
            one != other,
            f"{self.about} variants {self.higher!r} and {self.lower!r} are the same words, so nothing is compared",
        )
        for metric in (self.metric, self.tuned_by):
            require_metric(metric, self.about)
        for entry in self.sweep or ():
            try:
                values_of(entry)
            except UserError as error:
                raise UserError(f"{self.about} {error}") from None
        for label in (*self.works, *self.may_fail):
            require(label in (self.higher, self.lower), f"{self.about} {label!r} is neither of its sides")

    @property
    def about(self) -> str:
        """How a refusal names the claim."""
        return f"claim {self.says!r}:"

    @property
    def sides(self) -> tuple[str, str]:
        """The labels of the two that are compared."""
        return self.higher, self.lower

    @property
    def grid(self) -> Sequence[str]:
        """``sweep``, or what it is by default."""
        if self.sweep is not None:
            return self.sweep
        return () if reduction_of(self.metric) == "first" else RATES

    def job(self, label: str) -> Works | None:
        """What a side must reach; None: nothing is asked of it."""
        if label in self.works:
            return self.works[label]
        of_headline = column_of(self.metric) == HEADLINE and reduction_of(self.metric) != "first"
        works = Works() if self.better == "higher" else falls(HEADLINE)
        return works if of_headline and label not in self.may_fail else None

    @property
    def is_of_accuracy(self) -> bool:
        """Whether its metric is a share of what is right."""
        return self.better == "higher" and is_accuracy(self.metric)

    @property
    def columns(self) -> set[str]:
        """The names of all metrics that its sides' runs are asked for."""
        jobs = [job for label in self.sides if (job := self.job(label)) is not None]
        wanted = [self.metric, *(one for job in jobs for one in job.metrics)]
        return {column_of(one) for one in [*wanted, *([self.tuned_by] if self.grid else [])]}

    def depth(self, label: str, above: tuple[str, ...] = ()) -> int:
        """How many variants must be finished one after the other before this one can start.

        ``above``: those that are waiting for it. UserError if a variant is built on one that does not exist, or on
        itself.
        """
        path = (*above, label)
        require(
            label not in above, f"{self.about} a variant is built on itself: {' on '.join(map(repr, path))}"
        )
        needed = built_on(self.variants[label])
        for one in needed:
            require(
                one in self.variants,
                f"{self.about} variant {label!r} is built on {{variant {one}}}, which does not exist{self.near(one)}",
            )
        return 1 + max((self.depth(one, path) for one in needed), default=-1)

    def below(self, label: str) -> set[str]:
        """All variants that one is built on, those between included."""
        own = built_on(self.variants[label])
        return {*own, *(one for other in own for one in self.below(other))}

    def near(self, label: str) -> str:
        return nearest(label, self.variants)


@dataclass(frozen=True)
class Study:
    """What a method's paper claims that a small world can show.

    Raises ``UserError`` if it claims nothing, if a variant's words name no recipe, or if two claims tune a side of
    equal words otherwise.
    """

    method: str
    """What ``selfteach train`` calls the method."""
    claims: tuple[Claim, ...]
    task: str = ""
    """What variants are trained on whose words name no ``--task`` (empty: what ``selfteach train`` takes for their
    recipe)."""
    model: str = ""
    """What variants train whose words name no ``--model`` (empty: the one that goes with their world)."""
    home: str = ""
    """The folder that recipes of one's own, ``FILE:NAME`` at the beginning of a variant's words, are looked for in
    (empty: the present one); ``study_named`` sets it to that of the study's file."""

    def __post_init__(self) -> None:
        require(bool(self.claims), f"the study of {self.method} makes no claim")
        for claim in self.claims:
            for label, words in claim.variants.items():
                require(
                    words.split()[:1] not in ([], ["train"]) and not words.lstrip().startswith("-"),
                    f"{claim.about} variant {label!r} must begin with a recipe, as in 'opsd --steps 80'; "
                    f"got {words!r}",
                )
        self.require_tuned_alike()

    def require_tuned_alike(self) -> None:
        """UserError where two claims tune a side of equal words otherwise: it would be another run in each of them."""
        known: dict[str, Claim] = {}
        for claim in self.claims:
            for label in claim.sides:
                words = " ".join(self.written(claim, label).split())
                first = known.setdefault(words, claim)
                one, other = (tuning_of(each) for each in (first, claim))
                require(
                    one == other,
                    f"{claim.about} {label!r} is tuned over {other}, and the same words over {one} in claim "
                    f"{first.says!r}: say the same sweep and tuned_by in both",
                )

    def written(self, claim: Claim, label: str) -> str:
        """A variant's words after ``selfteach train``, with the study's task and model where they name none."""
        own = claim.variants[label]
        given = given_names(own.split())
        added = [("task", self.task), ("model", self.model)]
        return " ".join([own, *(f"--{name} {value}" for name, value in added if value and name not in given)])

    def words(self, claim: Claim, label: str) -> str:
        """The same as they run from here: a recipe of one's own is looked for in ``home``."""
        recipe, _, rest = self.written(claim, label).partition(" ")
        if self.home and is_reference(recipe):
            recipe = shlex.quote(str(Path(self.home) / recipe))
        return f"{recipe} {rest}".strip()


def tuning_of(claim: Claim) -> str:
    """What both sides are tuned over, and what is chosen by."""
    way = "" if claim.better == "higher" else ", lower is better"
    return f"{', '.join(claim.grid)} by {claim.tuned_by}{way}" if claim.grid else "nothing"


def require_metric(metric: str, about: str) -> None:
    """UserError for what is no NAME, nor one after a word of ``REDUCTIONS``."""
    *words, _ = metric.split(" ")
    require(
        len(words) < 2 and set(words) <= set(REDUCTIONS),
        f"{about} metric {metric!r} is no NAME, nor one after one of {', '.join(REDUCTIONS)}",
    )


def reduction_of(metric: str) -> str:
    """One of ``REDUCTIONS``."""
    return metric.split(" ")[0] if " " in metric else "last"


def column_of(metric: str) -> str:
    """A metric's name, without the word before it."""
    return metric.split(" ")[-1]


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a share of held-out answers or problems that are right."""
    column = column_of(metric)
    return (
        column in (HEADLINE, "eval/valid")
        or re.fullmatch(r"eval/(.*/)?(accuracy|pass@\d+)", column) is not None
    )


def values_of(entry: str) -> tuple[str, list[str]]:
    """(the setting, its values) of an entry of a sweep, "--lr 1e-4|x1|x3". UserError if it is none."""
    name, _, values = entry.strip().partition(" ")
    found = [one.strip() for one in values.split("|")]
    require(
        name.startswith("--") and all(found) and not any(" " in one for one in found),
        f"a sweep's entry is a setting and its values, as in '--lr 1e-4|x1|x3'; got {entry!r}",
    )
    return name, found


def understood(words: str) -> bool:
    """Whether the words are quoted well, and ask for a run rather than for help."""
    try:
        return not {"-h", "--help", "--help-all", "--dry-run", "--resume"} & set(shlex.split(words))
    except ValueError:
        return False


def built_on(words: str) -> list[str]:
    """The labels of the variants whose folders a variant's words name."""
    return re.findall(r"\{variant ([^}]+)\}", words)
