"""``selfteach study METHOD …``: what papers claim, put to the test by runs of a small world."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from selfteach.cli.console import parsed
from selfteach.cli.train import run_of
from selfteach.settings import Few, PositiveCount, settings
from selfteach.studies import STUDIES, Study, study_named
from selfteach.studies.plan import StudySettings
from selfteach.studies.runner import commands, run_studies

COMMON_TASK = "tutor"
"""Reads every kind of help, so that every method can be tried on it."""


@settings
class Arguments:
    methods: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Whose claims: methods, or studies of one's own as FILE.py:NAME (none: every method that has a study)."""
    seeds: Few = 3
    """Runs of each variant, with seeds 0, 1, … A verdict needs two at least."""
    jobs: Few = 1
    """Runs at a time; each gets its share of the cores."""
    out: Path = Path("runs/study")
    """Folder of the runs. What is finished there is kept, what was interrupted goes on."""
    results: Path | None = None
    """Where methods.md, methods.json and methods.html are written (none: into --out)."""
    common_task: str | None = ""
    """The arena world on which baselines and methods are compared at equal generated tokens (empty: tutor if no method
    is named, else none; none: no such comparison)."""
    tokens: PositiveCount = 200_000
    """Generated tokens of each method on the common task."""
    list: bool = False
    """Print the claims with their variants, and stop."""
    dry_run: bool = False
    """Print the commands that would run, and stop."""


def command(words: Sequence[str]) -> int:
    given = parsed(
        Arguments,
        words,
        program="selfteach study",
        description=f"Studies: {', '.join(STUDIES)}. The verdict on a claim is reproduced, refuted or undecided.",
    )
    studies = tuple(study_named(name) for name in dict.fromkeys(given.methods or STUDIES))
    asked = StudySettings(studies, given.out, given.seeds, common_task(given), given.tokens)
    if given.list:
        print("\n\n".join(listed(study) for study in studies))
    elif given.dry_run:
        print(dry(commands(asked, run_of)))
    else:
        typed = shlex.join(["selfteach", "study", *words])
        results = given.results or given.out
        run_studies(asked, run_of, jobs=given.jobs, command=typed, results=results)
    return 0


def common_task(given: Arguments) -> str:
    """The task that all are compared on; empty: none."""
    if given.common_task == "":
        return "" if given.methods else COMMON_TASK
    return given.common_task or ""


def listed(study: Study) -> str:
    """A study's claims, each with its comparison and its variants as commands."""
    lines = [study.method]
    for claim in study.claims:
        lines += [
            f"  {claim.says}",
            f"    {claim.metric}: {claim.higher} {claim.rule.relation} {claim.lower}?",
            *(f"    {label}: selfteach train {study.words(claim, label)}" for label in claim.variants),
        ]
    return "\n".join(lines)


def dry(waves: Sequence[Sequence[str]]) -> str:
    """Commands, those of a wave after those of the wave before."""
    if not waves:
        return "every run is finished"
    return "\n\n".join("\n".join([f"# wave {i}", *wave]) for i, wave in enumerate(waves, start=1))
