"""From studies to verdicts: every run brought to its end, then the results written."""

from __future__ import annotations

import shlex
from pathlib import Path

from selfteach.errors import UserError
from selfteach.studies.answer import Open, answered
from selfteach.studies.outdated import forget, outdated
from selfteach.studies.plan import Plan, Resolve, StudySettings, planned
from selfteach.studies.results import write_results
from selfteach.studies.runs import finish, finished


def run_studies(asked: StudySettings, resolve: Resolve, *, jobs: int, command: str, results: Path) -> None:
    """Bring every run to its end, ``jobs`` at a time (finished ones are kept, outdated ones made anew), and write
    ``results``.

    An interruption or a failed run leaves results of what is finished, with the rest named as missing. Raises
    ``UserError`` for a defect of a study: for words that are none before any run, for a metric that its runs do not
    write after the results of the other claims are written.
    """
    plan = planned(asked, resolve)
    asked.out.mkdir(parents=True, exist_ok=True)
    forget(outdated(plan, resolve))
    try:
        for wave in plan.waves:
            finish(wave, jobs)
    finally:
        left = written(asked, plan, command, results)
    for one in left:
        if one.defect:
            raise UserError(f"study of {one.method}: {one.reason}")


def written(asked: StudySettings, plan: Plan, command: str, results: Path) -> list[Open]:
    """Write the results; the claims without a verdict are returned."""
    answers, left = answered(plan)
    write_results(asked, plan, answers, left, command, results)
    return left


def commands(asked: StudySettings, resolve: Resolve) -> list[list[str]]:
    """The commands that ``run_studies`` would run by now, wave by wave; nothing is run, written or deleted."""
    plan = planned(asked, resolve)
    stale = outdated(plan, resolve)
    waves = [[run for run in wave if run.folder in stale or not finished([run])] for wave in plan.waves]
    return [[shlex.join(["selfteach", *run.words]) for run in wave] for wave in waves if wave]
