"""``selfteach study METHOD …``: what papers claim, put to the test by runs of a small world."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from selfteach.checks import require
from selfteach.cli.console import parsed
from selfteach.cli.train import run_of
from selfteach.importing import is_reference
from selfteach.recipes import METHODS
from selfteach.settings import Few, PositiveCount, PositiveFloat, settings
from selfteach.studies import STUDIES, Study, study_named
from selfteach.studies.plan import StudySettings
from selfteach.studies.rows import Rows
from selfteach.studies.runner import ROWS, commands, run_studies
from selfteach.studies.verdict import FIRST_LOOK, looks

COMMON_TASK = "tutor"
"""Reads every kind of help, so that every method can be tried on it."""


@settings
class Arguments:
    methods: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Whose claims: methods, or studies of one's own as FILE.py:NAME (none: every method that has a study)."""
    all: bool = False
    """Every method that has a study; the same as to name none."""
    seeds: Few = 16
    """Most runs of each side: 4, 8, 16, 32 …, at which claims are looked at; one that is decided asks for no more.
    Fewer than 4 only try runs out: nothing is tuned, and there is no verdict."""
    jobs: Few = 1
    """Runs at a time; each gets its share of the cores."""
    budget: PositiveFloat | None = None
    """Minutes after which no other run is started (none: until all is done). Later the same command goes on."""
    out: Path = Path("runs/study")
    """Folder of the runs: what was interrupted there goes on, and what is finished is deleted."""
    keep: bool = False
    """Keep the folders of finished runs."""
    results: Path | None = None
    """Where methods.md, methods.json and methods.html are written, and in studies/ a row of each run, which is not made
    again (none: into --out)."""
    common_task: str | None = ""
    """The arena world on which baselines and methods are compared at equal generated tokens (empty: tutor if no method
    is named, else none; none: no such comparison)."""
    common_model: str = ""
    """What is trained on the common task (empty: the world's own model)."""
    tokens: PositiveCount = 200_000
    """Generated tokens of each method on the common task."""
    list: bool = False
    """Print the claims with their variants, and stop."""
    dry_run: bool = False
    """Print the commands that would run by now, and stop; what is chosen or decided by them may ask for more."""


def command(words: Sequence[str]) -> int:
    given = parsed(
        Arguments,
        words,
        program="selfteach study",
        description=f"Studies: {', '.join(STUDIES)}. A verdict is reproduced, refuted, equal, undecided or none.",
    )
    require(not (given.all and given.methods), "--all is every method: name none beside it")
    studies = tuple(study_named(name) for name in dict.fromkeys(given.methods or STUDIES))
    if given.list:
        print("\n\n".join(listed(study) for study in studies))
        return 0
    require_look(given.seeds)
    require(
        not given.common_model or bool(common_task(given)),
        "--common-model is trained on the common task, and there is none: give --common-task too",
    )
    for study in studies if common_task(given) else ():
        require(
            study.method in METHODS or is_reference(study.method),
            f"--common-task trains the studies' methods, and {study.method!r} is no recipe: call the study as one, or "
            "leave --common-task out",
        )
    results = given.results or given.out
    asked = StudySettings(
        studies,
        given.out,
        given.seeds,
        common_task(given),
        given.tokens,
        given.common_model,
        others(studies, results),
        tuple(STUDIES) if any(one in STUDIES.values() for one in studies) else (),
    )
    if given.dry_run:
        print(dry(commands(asked, run_of, results)))
        return 0
    run_studies(
        asked, run_of, jobs=given.jobs, command=shlex.join(["selfteach", "study", *words]), results=results,
        budget=given.budget, keep=given.keep,
    )  # fmt: skip
    return 0


def require_look(seeds: int) -> None:
    """UserError for a number of seeds at which no claim is looked at."""
    known = looks(max(seeds, FIRST_LOOK))
    require(
        seeds < FIRST_LOOK or seeds == known[-1],
        f"--seeds {seeds}: claims are looked at with 4, 8, 16, … seeds; give {known[-1]} or {2 * known[-1]}",
    )


def others(studies: Sequence[Study], results: Path) -> tuple[Study, ...]:
    """The methods' studies that rows are there of: they stand in the table too, though no run of theirs is made."""
    rows = Rows(results / ROWS)
    left = [study for study in STUDIES.values() if study.method not in {one.method for one in studies}]
    return tuple(study for study in left if rows.known({study.method}))


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
            *([f"    no verdict, withdrawn: {claim.withdrawn}"] if claim.withdrawn else []),
            f"    {claim.metric}: {claim.higher} {claim.rule.relation} {claim.lower}?",
            f"    both sides tuned over: {', '.join(claim.grid) or 'nothing'}",
            *(f"    {label}: selfteach train {study.words(claim, label)}" for label in claim.variants),
        ]
    return "\n".join(lines)


def dry(waves: Sequence[Sequence[str]]) -> str:
    """Commands, those of a round after those of the round before."""
    if not waves:
        return "every run is finished"
    return "\n\n".join("\n".join([f"# round {i}", *wave]) for i, wave in enumerate(waves, start=1))
