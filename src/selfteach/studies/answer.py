"""What the rows say to a claim: its sides' settings, its metric by side and seed, the verdict, or why there is none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfteach.errors import UserError
from selfteach.studies.plan import Plan, Side, side_of
from selfteach.studies.rows import Row
from selfteach.studies.study import Claim, Study, column_of, is_accuracy
from selfteach.studies.verdict import (
    FIRST_LOOK,
    MOST_SEEDS,
    Evidence,
    Verdict,
    evidence,
    interval,
    level_of,
    looks,
    seeds_needed,
)
from selfteach.training.config import TrainConfig

TUNING_SEEDS = (1000, 1001)
"""On these the settings of both sides are chosen; they are never reported."""
BEHIND = 0.25
"""How far below the best setting another may lie on the tuning seeds so far (accuracy, as mean) and still run on the
next one. One that is further behind on seed 1000 does not run on 1001: seeds of one setting differ by as much."""
CEILING = "both sides are at the ceiling, where nothing could tell them apart"
EVALUATED = "eval/"
"""What the names of an evaluation's metrics begin with."""
RESOLUTION = 1 / 512
"""One answer of the evaluation that every run is told (``plan.MEASURED``)."""
RELATIVE = 1e-3
"""Of a metric that no evaluation measures: the share of its largest value that its seeds are taken to differ by."""


@dataclass
class Setup:
    """A claim's sides with the settings that were chosen for them, as far as rows tell."""

    study: Study
    claim: Claim
    sides: dict[str, Side] = field(default_factory=dict)
    """Label → side, of those whose settings are chosen or need no choice."""
    tried: dict[str, dict[str, float]] = field(default_factory=dict)
    """Label → words of the settings tried ("" as written) → the metric it is tuned by, mean over the tuning seeds
    that it was tried on; -inf: it stopped."""
    missing: list[tuple[Side, int]] = field(default_factory=list)
    """(side, seed) of the runs that a choice waits for."""

    @property
    def ready(self) -> bool:
        """Whether both sides are known."""
        return set(self.claim.sides) <= set(self.sides)


def set_up(plan: Plan, study: Study, claim: Claim) -> Setup:
    """The claim's sides: those that others are built on first. Fewer seeds than a verdict needs only try runs out, and
    nothing is tuned."""
    found = Setup(study, claim)
    for label in sorted(claim.sides, key=claim.depth):
        if any(one in claim.sides and one not in found.sides for one in claim.below(label)):
            continue  # what it is built on waits for its own choice
        side = side_of(study, claim, label, found.sides)
        grid = plan.grid(claim, side) if plan.asked.seeds >= FIRST_LOOK else [side]
        for one in grid:
            plan.wants(one, claim.columns)
        chosen = grid[0] if len(grid) == 1 else best(plan, found, label, grid)
        if chosen is not None:
            found.sides[label] = chosen
    return found


def best(plan: Plan, found: Setup, label: str, grid: Sequence[Side]) -> Side | None:
    """The best of a side's grid on the tuning seeds, of equals the one as written; None while runs are missing. Only
    settings that are close to the best are tried on all of them (``BEHIND``)."""
    racing, scores = list(grid), dict[Side, float]()
    tried: dict[Side, list[float]] = {one: [] for one in grid}
    for seed in TUNING_SEEDS:
        rows = [(one, plan.row(one, seed)) for one in racing]
        if missing := [(one, seed) for one, row in rows if row is None]:
            found.missing += missing
            return None
        for one, row in rows:
            tried[one].append(tuning_score(row, found.claim))
            scores[one] = statistics.fmean(tried[one])
        leader = max(scores[one] for one in racing)
        if found.claim.better == "higher" and is_accuracy(found.claim.tuned_by):
            racing = [one for one in racing if scores[one] >= leader - BEHIND]
    found.tried[label] = {one.words_of_settings: scores[one] for one in grid}
    return max(racing, key=lambda one: (scores[one], one.plainly is None))


def tuning_score(row: Row | None, claim: Claim) -> float:
    """The metric that the claim is tuned by; -inf of a run that stopped by itself, or has no such number."""
    assert row is not None
    if row.stopped:
        return -math.inf
    try:
        value = row.value(claim.tuned_by) * (1 if claim.better == "higher" else -1)
    except UserError:  # a run that is not evaluated: its settings stay as they are
        return -math.inf
    return value if math.isfinite(value) else -math.inf


# --- one claim


@dataclass(frozen=True)
class Answer:
    """A claim with what the runs say: the metric of both sides by seed, as many as both have. ValueError for a number
    that is not finite: nothing follows from it."""

    method: str
    claim: Claim
    higher: Sequence[float]
    lower: Sequence[float]
    dead: str = ""
    """The side that does not do its own job (empty: none), and what it came to."""
    setup: Setup | None = None
    resolution: float = RESOLUTION
    """The least standard deviation of the differences that is believed, in the metric's unit."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.higher, *self.lower))):
            raise ValueError(f"{self.claim.metric} is not finite: {self.higher}, {self.lower}")

    @property
    def differences(self) -> list[float]:
        """Higher minus lower, paired by seed."""
        return [a - b for a, b in zip(self.higher, self.lower, strict=True)]

    @property
    def evidence(self) -> Evidence:
        """What the looks have come to: nothing for sides that measure the same, a claim of equality's too."""
        if self.alike:
            return Evidence(seeds=whole(len(self.differences)))
        return evidence(self.claim.rule, self.differences, self.resolution)

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.differences, resolution=self.resolution)

    @property
    def at_the_ceiling(self) -> bool:
        """Whether both accuracies are so near 1 that they could not differ by the margin of "equal"."""
        margin = getattr(self.claim.rule, "margin", None) or 0.0
        worse = min(statistics.fmean(self.higher), statistics.fmean(self.lower))
        return self.claim.is_of_accuracy and worse > 1 - margin

    @property
    def alike(self) -> bool:
        """Whether both sides measure the same number in every seed: the study compares nothing, and more seeds will
        not help it."""
        return len(self.differences) >= FIRST_LOOK and not any(self.differences)


@dataclass(frozen=True)
class Open:
    """A claim without a number to hold it against, and why. ``defect``: the study is wrong, or a run of it failed, and
    running on will not mend it. ``waiting``: it waits for runs."""

    method: str
    claim: Claim
    reason: str
    defect: bool = False
    waiting: bool = False


def answered(plan: Plan) -> tuple[list[Answer], list[Open]]:
    """The claims with numbers, and those without, each in the plan's order."""
    found = [answer(plan, set_up(plan, study, claim)) for study, claim in [*plan.claims, *plan.others]]
    return (
        [one for one in found if isinstance(one, Answer)],
        [one for one in found if isinstance(one, Open)],
    )


def answer(plan: Plan, setup: Setup) -> Answer | Open:
    """What the rows say to a claim by now."""
    method, claim = setup.study.method, setup.claim
    if not setup.ready:
        waits = [label for label in claim.sides if label not in setup.sides]
        return unmade(method, claim, f"not tuned yet: {', '.join(waits)}")
    rows = {label: rows_of_side(plan, setup.sides[label]) for label in claim.sides}
    seeds = whole(min(len(own) for own in rows.values()))
    if not seeds:
        waits = [label for label, own in rows.items() if len(own) < min(FIRST_LOOK, plan.asked.seeds)]
        return unmade(method, claim, f"not finished: {', '.join(waits or claim.sides)}")
    rows = {label: own[:seeds] for label, own in rows.items()}
    for label, own in rows.items():
        if stopped := [row for row in own if row.stopped]:
            return Open(method, claim, f"{label} stopped at seed {stopped[0].seed}: {stopped[0].stopped}")
    try:
        values = {label: [row.value(claim.metric) for row in own] for label, own in rows.items()}
        dead = next((said for label in claim.sides if (said := dead_side(claim, label, rows[label]))), "")
    except UserError as error:
        return Open(method, claim, str(error), defect=True)
    for label, numbers in values.items():
        for seed, value in enumerate(numbers):
            if not math.isfinite(value):
                return Open(method, claim, f"{claim.metric} of {label} is {value} at seed {seed}")
    higher, lower = (values[label] for label in claim.sides)
    return Answer(method, claim, higher, lower, dead, setup, resolution_of(plan, setup, [*higher, *lower]))


def unmade(method: str, claim: Claim, lacks: str) -> Open:
    """A claim that waits for runs; for one that is withdrawn none are made."""
    if claim.withdrawn:
        return Open(method, claim, f"withdrawn: {claim.withdrawn}")
    return Open(method, claim, lacks, waiting=True)


def resolution_of(plan: Plan, setup: Setup, values: Sequence[float]) -> float:
    """What a metric can tell apart: of an evaluation a single answer of the side that gives fewer, of any other metric
    a thousandth of the largest value."""
    if not column_of(setup.claim.metric).startswith(EVALUATED):
        return RELATIVE * max(map(abs, values))
    configs = [plan.config(setup.sides[label]) for label in setup.claim.sides]
    measured = [one.evaluation for one in configs if isinstance(one, TrainConfig)]
    if not measured:
        return RELATIVE * max(map(abs, values))
    return 1 / max(1, min(one.eval_problems * one.eval_samples for one in measured))


def rows_of_side(plan: Plan, side: Side) -> list[Row]:
    """The side's rows of seeds 0, 1, …, as far as there are any."""
    found: list[Row] = []
    while (row := plan.row(side, len(found))) is not None:
        found.append(row)
    return found


def whole(seeds: int) -> int:
    """The seeds that count: those of the last whole look, or all before the first one."""
    return max(looks(seeds), default=seeds)


def dead_side(claim: Claim, label: str, rows: Sequence[Row]) -> str:
    """What a side's rows come to where it does not do its own job; empty where it does."""
    job = claim.job(label)
    if job is None:
        return ""
    reached = statistics.fmean(row.value(job.metric) for row in rows)
    above = statistics.fmean(
        row.value(job.above) if isinstance(job.above, str) else job.above for row in rows
    )
    if reached - above > job.by:
        return ""
    than = (
        f"untrained it is {above:.3g}"
        if job.above == f"first {job.metric}"
        else f"it is not above {above:.3g}"
    )
    return f"dead side {label}: {job.metric} ends at {reached:.3g}, {than} ({job.says})"


# --- a table


@dataclass(frozen=True)
class Decided:
    """An answer with its verdict in the table, and why it is that."""

    answer: Answer
    verdict: Verdict
    why: str = ""

    @property
    def settled(self) -> bool:
        """Whether further seeds would change nothing."""
        return self.verdict != "undecided" or self.answer.alike or self.why == CEILING


def decided(answers: Sequence[Answer], others: int = 0) -> list[Decided]:
    """The verdicts of a table of these claims and ``others`` of which nothing is known: Benjamini–Hochberg."""
    counted = [one.evidence.p if counts(one) else 1.0 for one in answers]
    level = level_of([*counted, *[1.0] * others])
    return [judged(one, level) for one in answers]


def counts(one: Answer) -> bool:
    return not (one.dead or one.claim.withdrawn)


def judged(one: Answer, level: float) -> Decided:
    if one.claim.withdrawn:
        return Decided(one, "no verdict", f"withdrawn: {one.claim.withdrawn}")
    if one.dead:
        return Decided(one, "no verdict", one.dead)
    if one.alike:
        return Decided(one, "undecided", "both sides measure the same in every seed: nothing is compared")
    seen = one.evidence
    if (verdict := seen.verdict(level)) == "equal" and one.at_the_ceiling:
        return Decided(one, "undecided", CEILING)
    if verdict is not None:
        return Decided(one, verdict)
    if seen.seeds == 0:
        return Decided(one, "undecided", f"a verdict needs {FIRST_LOOK} seeds at least")
    needed = seeds_needed(one.claim.rule, one.differences, level, one.resolution)
    at = "at the effect and the spread seen"
    if needed is None or 2 * seen.seeds > MOST_SEEDS:
        return Decided(one, "undecided", f"{at} no number of seeds that can be run would decide it")
    more = (
        f"about {needed} seeds would"
        if needed > seen.seeds
        else f"the next look, {2 * seen.seeds} seeds, would"
    )
    return Decided(one, "undecided", f"{at} {more} decide it: --seeds {max(needed, 2 * seen.seeds)}")


def by_label(setup: Setup | None) -> Mapping[str, str]:
    """Label → the settings that were chosen for it ("" as written), of the sides that were tuned."""
    if setup is None:
        return {}
    return {label: setup.sides[label].words_of_settings for label in setup.tried if label in setup.sides}
