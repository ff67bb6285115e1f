"""What the runs say to a claim: its metric by variant and seed, and the verdict, or why there is none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from selfteach.checks import nearest
from selfteach.errors import UserError
from selfteach.report.text import as_number
from selfteach.studies.plan import Plan
from selfteach.studies.runs import Planned, finished, rows_of, summary_of
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Verdict

SUMMARY = "summary/"


@dataclass(frozen=True)
class Answer:
    """A claim with what the runs say: the metric of both variants by seed. ValueError for a number that is not finite:
    nothing follows from it."""

    method: str
    claim: Claim
    higher: Sequence[float]
    lower: Sequence[float]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.higher, *self.lower))):
            raise ValueError(f"{self.claim.metric} is not finite: {self.higher}, {self.lower}")

    @property
    def differences(self) -> list[float]:
        """Higher minus lower, paired by seed."""
        return [a - b for a, b in zip(self.higher, self.lower, strict=True)]

    @property
    def verdict(self) -> Verdict:
        return self.claim.rule.verdict(self.differences)


@dataclass(frozen=True)
class Open:
    """A claim without a verdict, and why. ``defect``: the study is wrong, and running on will not mend it."""

    method: str
    claim: Claim
    reason: str
    defect: bool = False


def answered(plan: Plan) -> tuple[list[Answer], list[Open]]:
    """The claims with a verdict, and those without, each in the plan's order."""
    found = [answer(plan, study, claim) for study, claim in plan.claims]
    return (
        [one for one in found if isinstance(one, Answer)],
        [one for one in found if isinstance(one, Open)],
    )


def answer(plan: Plan, study: Study, claim: Claim) -> Answer | Open:
    runs = {label: plan.variants[claim.variants[label]] for label in (claim.higher, claim.lower)}
    if unfinished := [label for label, own in runs.items() if not finished(own)]:
        return Open(study.method, claim, f"not finished: {', '.join(unfinished)}")
    try:
        values = {label: [measured(claim, run) for run in own] for label, own in runs.items()}
    except UserError as error:
        return Open(study.method, claim, str(error), defect=True)
    for label, own in values.items():
        for seed, value in enumerate(own):
            if not math.isfinite(value):
                return Open(study.method, claim, f"{claim.metric} of {label} is {value} at seed {seed}")
    return Answer(study.method, claim, values[claim.higher], values[claim.lower])


def measured(claim: Claim, run: Planned) -> float:
    """The claim's metric of one run; NaN if any number that it is made of is. UserError with the nearest names if the
    run wrote no such metric, or one that is no number."""
    if claim.column.startswith(SUMMARY):
        summary = summary_of(run)
        given = [summary[name] for name in [claim.column.removeprefix(SUMMARY)] if name in summary]
        known = [SUMMARY + name for name in summary]
    else:
        rows = rows_of(run)
        given = [row[claim.column] for row in rows if claim.column in row]
        known = sorted({name for row in rows for name in row})
    if not given:
        raise UserError(f"{run.folder} measured no {claim.column!r}{nearest(claim.column, known)}")
    values = [number for number in map(as_number, given) if number is not None]
    if len(values) < len(given):
        raise UserError(f"{claim.column!r} in {run.folder} is no number; a claim's metric must be one")
    return REDUCED[claim.reduction](values)


def greatest(values: Sequence[float]) -> float:
    """The maximum; NaN if any value is (``max`` would hide it, or not, by order)."""
    return math.nan if any(map(math.isnan, values)) else max(values)


REDUCED: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda values: values[-1],
    "first": lambda values: values[0],
    "mean": statistics.fmean,
    "max": greatest,
}
