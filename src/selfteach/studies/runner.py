"""From studies to verdicts: runs are made until every claim is decided or has all its seeds, then the results written.

Rounds: first what sides are tuned by and the first look at every claim, then its second look, and so on; the common
task last. A run that has a row is not made again; its folder is deleted once the row is written.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from selfteach.errors import UserError
from selfteach.report.text import as_number
from selfteach.studies.answer import Answer, Decided, Open, answer, answered, decided, set_up
from selfteach.studies.fingerprint import Resolve
from selfteach.studies.outdated import forget, mark, outdated
from selfteach.studies.plan import Plan, Side, StudySettings, Work
from selfteach.studies.results import effect, write_results
from selfteach.studies.rows import Row, Rows, row_of
from selfteach.studies.runs import finished, last_line, log_of, rows_of
from selfteach.studies.verdict import FIRST_LOOK, looks
from selfteach.studies.workers import Crew
from selfteach.training.rundir import STOPPED, writing
from selfteach.wording import duration

ROWS = "studies"
"""The folder of the rows, in that of the results."""
LAST = 10**9
"""The round of the common task."""
Make = Callable[[list[Work], Callable[[Work, int], None], Callable[[], bool]], None]


def run_studies(
    asked: StudySettings,
    resolve: Resolve,
    *,
    jobs: int,
    command: str,
    results: Path,
    budget: float | None = None,
    keep: bool = False,
) -> None:
    """Make the runs that the claims ask for, ``jobs`` at a time, and write ``results``; ``budget``: minutes after which
    no other run is started; ``keep``: run folders stay.

    An interruption or a failed run leaves results of what is finished. Raises ``UserError`` for a defect of a study:
    for words that are none before any run, for a metric that its runs do not write, and for runs that failed, after
    all others were made and the results are written.
    """
    plan = Plan(asked, resolve, Rows(results / ROWS))
    asked.out.mkdir(parents=True, exist_ok=True)
    with writing(results):  # before any run is made
        (results / ROWS).mkdir(parents=True, exist_ok=True)
        (results / ROWS / ".lock").touch()
    until = None if budget is None else time.monotonic() + 60 * budget
    making = Making(plan, keep, lambda: until is None or time.monotonic() < until)
    try:
        with Crew(jobs) as crew:
            making.all(crew.make)
    finally:
        left = written(plan, command, results)
    defects = [f"study of {one.method}: {one.reason}" for one in left if one.defect]
    if problems := [*making.failed.values(), *dict.fromkeys(defects)]:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(problems[0] + more)


class Making:
    """The runs of a plan, made round by round."""

    def __init__(self, plan: Plan, keep: bool, more: Callable[[], bool]) -> None:
        self.plan, self.keep, self.more = plan, keep, more
        self.failed: dict[Path, str] = {}
        """Folder → how a run failed that did not stop by itself."""
        self.held: set[Path] = set()
        """Folders that runs of this round are built on."""

    def all(self, make: Make) -> None:
        """Until nothing is missing, or no more is to be begun; ``make`` makes runs (``Crew.make``)."""
        while self.more() and (works := self.round()):
            if old := outdated(works, self.plan):
                forget(old)
                continue  # what others of the round are built on may be among it
            done = [
                work for work in works if finished([work])
            ]  # by a process that ended before the row was written
            left = [work for work in works if work not in done]
            for work in done:
                self.keep_row(work)  # its folder may be gone then
            for work in left:
                mark(work, self.plan)
            make(left, self.ended, self.more)
            self.drop_folders(works)

    def round(self) -> list[Work]:
        """The runs that can be made now, without those that failed: of the earliest look that lacks any."""
        wanted = missing(self.plan)
        self.held = {need.folder for works in wanted.values() for work in works for need in needed_by(work)}
        for _, works in sorted(wanted.items()):
            if able := list(self.startable(works)):
                return able
        return []

    def startable(self, works: list[Work]) -> Iterator[Work]:
        """Those whose needs are there, and the needs of the others; each once."""
        seen: set[Path] = set()
        for work in works:
            needs = [one for one in work.needs if not finished([one])]
            for one in list(self.startable(needs)) if needs else [work]:
                if one.folder not in seen and one.folder not in self.failed:
                    seen.add(one.folder)
                    yield one

    def ended(self, work: Work, code: int) -> None:
        """A run has ended: its row, or how it failed."""
        stop = work.folder / STOPPED
        name = f"{work.label} seed {work.seed}"
        if code and stop.exists():
            said = stop.read_text(encoding="utf-8", errors="replace").strip()
            print(f"{name}: stopped {said}", flush=True)
            self.add(work, stopped(self.plan, work, said))
        elif code:
            log = log_of(work)
            self.failed[work.folder] = f"{name} ended with code {code} ({last_line(log)}); the log is {log}"
            print(self.failed[work.folder], flush=True)
        else:
            self.keep_row(work)

    def keep_row(self, work: Work) -> None:
        assert work.side is not None
        columns = self.plan.columns.get(work.side.words, set())
        row = row_of(
            work, work.side.words, self.plan.fingerprint(work.side), columns, with_curve=work.with_curve
        )
        print(f"{work.label} seed {work.seed}: {duration(row.seconds)}", flush=True)
        self.add(work, row)

    def add(self, work: Work, row: Row) -> None:
        self.plan.rows.add(row)
        if not self.keep and work.folder not in self.held:
            shutil.rmtree(work.folder, ignore_errors=True)
            log_of(work).unlink(missing_ok=True)

    def drop_folders(self, works: list[Work]) -> None:
        """Delete the folders that runs were built on, once none waits for them."""
        if self.keep:
            return
        waited = {n.folder for own in missing(self.plan).values() for work in own for n in needed_by(work)}
        for need in {need.folder: need for work in works for need in needed_by(work)}.values():
            if need.folder not in waited:
                shutil.rmtree(need.folder, ignore_errors=True)
                log_of(need).unlink(missing_ok=True)


def needed_by(work: Work) -> Iterator[Work]:
    """The runs that a run is built on, those that these are built on, and so on."""
    for one in work.needs:
        yield one
        yield from needed_by(one)


def stopped(plan: Plan, work: Work, why: str) -> Row:
    """The row of a run that stopped by itself."""
    assert work.side is not None
    rows = rows_of(work)
    spent = next((as_number(row["spent/tokens"]) for row in reversed(rows) if "spent/tokens" in row), None)
    return Row(work.side.words, work.seed, plan.fingerprint(work.side), spent=spent or 0.0, stopped=why)


# --- what is missing


def missing(plan: Plan) -> dict[int, list[Work]]:
    """Look (its number of seeds) → the runs that it lacks, in the claims' order, each once; the common task is last."""
    found: dict[int, dict[Path, Work]] = {}
    for look, side, seed in lacking(plan):
        work = plan.work(side, seed)
        found.setdefault(look, {}).setdefault(work.folder, work)
    for works in plan.common.values():
        for work in works:
            assert work.side is not None
            if plan.row(work.side, work.seed) is None:
                found.setdefault(LAST, {})[work.folder] = work
    return {look: list(works.values()) for look, works in found.items()}


def lacking(plan: Plan) -> Iterator[tuple[int, Side, int]]:
    """(look, side, seed) of every run that a claim which is not settled lacks."""
    answers, left = answered(plan)
    settled = {id(one.answer.claim) for one in decided(answers, len(left)) if one.settled}
    settled |= {id(one.claim) for one in left if not one.waiting}
    for study, claim in plan.claims:
        if id(claim) in settled:
            continue
        setup = set_up(plan, study, claim)
        for side, seed in setup.missing:
            yield FIRST_LOOK, side, seed
        if setup.ready and (look := next_look(plan, answer(plan, setup))):
            for label in claim.sides:
                for seed in range(look):
                    if plan.row(setup.sides[label], seed) is None:
                        yield look, setup.sides[label], seed


def next_look(plan: Plan, found: Answer | Open) -> int | None:
    """The number of seeds at which an open claim is looked at next; None: the cap is reached."""
    most = plan.asked.seeds
    if most < FIRST_LOOK:
        return None if isinstance(found, Answer) and len(found.differences) >= most else most
    seen = found.evidence.seeds if isinstance(found, Answer) else 0
    return next((look for look in looks(most) if look > seen), None)


# --- what is left


def written(plan: Plan, command: str, results: Path) -> list[Open]:
    """Write the results; the claims without numbers are returned."""
    answers, left = answered(plan)
    verdicts = decided(answers, len(left))
    asked = {id(claim) for _, claim in plan.claims}  # others stand in the same table
    every: list[Decided | Open] = [*verdicts, *left]
    for one in every:
        claim = one.claim if isinstance(one, Open) else one.answer.claim
        if id(claim) in asked:
            print(told(one), flush=True)
    write_results(plan, verdicts, left, command, results)
    return left


def told(one: Decided | Open) -> str:
    """A claim and what became of it, in one line."""
    if isinstance(one, Open):
        return f"{one.method}: {one.claim.says}: no verdict: {one.reason}"
    seeds = f"{one.answer.claim.metric} {effect(one.answer)}, {len(one.answer.differences)} seeds"
    why = f": {one.why}" if one.why else ""
    return f"{one.answer.method}: {one.answer.claim.says}: {one.verdict} ({seeds}){why}"


def commands(asked: StudySettings, resolve: Resolve, results: Path) -> list[list[str]]:
    """The commands that ``run_studies`` would run by now, look by look; nothing is run, written or deleted. What is
    chosen or decided by them may ask for more."""
    plan = Plan(asked, resolve, Rows(results / ROWS))
    waves = [with_needs(works) for _, works in sorted(missing(plan).items())]
    return [[shlex.join(["selfteach", *work.words]) for work in wave] for wave in waves]


def with_needs(works: list[Work]) -> list[Work]:
    """The runs, each after those that it is built on and that are not finished; each once."""
    found: dict[Path, Work] = {}
    for work in works:
        needs = [one for one in work.needs if not finished([one])]
        found |= {one.folder: one for one in with_needs(needs)} if needs else {}
        found.setdefault(work.folder, work)
    return list(found.values())
