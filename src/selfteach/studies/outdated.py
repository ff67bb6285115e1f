"""Folders of runs that were begun and mean something else by now: they are to be made anew.

Beside its config.toml a run of a study has the fingerprint that it was begun with: settings may be what they were, and
the code another.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from selfteach.studies.plan import Plan, Work
from selfteach.studies.runs import finished
from selfteach.training.launch import table_of
from selfteach.training.runconfig import changes
from selfteach.training.running import FREE

FINGERPRINT = "fingerprint.txt"


def outdated(works: Sequence[Work], plan: Plan) -> dict[Path, str]:
    """Folder → why its run is to be made anew: its words mean other settings by now (a preset has changed), it was
    begun with other code, or the run whose model it was built on is still to be made."""
    stale: dict[Path, str] = {}
    for work in chain.from_iterable(map(with_those_below, works)):
        lost = [one for one in work.needs if one.folder in stale or not finished([one])]
        if changed := changed_setting(work, plan):
            stale[work.folder] = f"{work.label} seed {work.seed}: made with other settings ({changed})"
        elif work.folder.exists() and begun_with(work) != fingerprint_of(work, plan):
            stale[work.folder] = f"{work.label} seed {work.seed}: begun with other code than there is now"
        elif lost and work.folder.exists():
            stale[work.folder] = (
                f"{work.label} seed {work.seed}: built on {lost[0].label}, which is made anew"
            )
    return stale


def with_those_below(work: Work) -> Iterator[Work]:
    for one in work.needs:
        yield from with_those_below(one)
    yield work


def changed_setting(work: Work, plan: Plan) -> str:
    """The first setting of a begun run that differs from what its words mean (empty: none does)."""
    if not (work.folder / "config.toml").exists():
        return ""
    config = plan.resolve(work.words[1:])  # the words name the seed
    return next(iter(changes(work.folder, table_of(config), FREE)), "")


def mark(work: Work, plan: Plan) -> None:
    """Write down what a run is begun with, before it is."""
    work.folder.mkdir(parents=True, exist_ok=True)
    (work.folder / FINGERPRINT).write_text(fingerprint_of(work, plan) + "\n", encoding="utf-8")


def begun_with(work: Work) -> str:
    """The fingerprint that a folder's run was begun with; empty where none is written down."""
    file = work.folder / FINGERPRINT
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else ""


def fingerprint_of(work: Work, plan: Plan) -> str:
    assert work.side is not None
    return plan.fingerprint(work.side)


def forget(stale: dict[Path, str]) -> None:
    """Delete the folders, saying why."""
    for folder, reason in stale.items():
        print(f"{reason}; anew", flush=True)
        shutil.rmtree(folder)
