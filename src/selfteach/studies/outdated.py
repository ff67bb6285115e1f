"""Runs of an earlier study that mean something else by now, and are to be made anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from selfteach.studies.plan import Plan, Resolve
from selfteach.studies.runs import Planned, finished
from selfteach.studies.study import built_on
from selfteach.training.launch import FREE, table_of
from selfteach.training.runconfig import changes


def outdated(plan: Plan, resolve: Resolve) -> dict[Path, str]:
    """Folder → why its run is to be made anew: its words mean other settings by now (a preset has changed), or the run
    whose model it was built on is still to be made."""
    stale: dict[Path, str] = {}
    for runs in (*plan.variants.values(), *plan.common.values()):
        for run in runs:
            if changed := changed_setting(run, resolve):
                stale[run.folder] = f"{run.label} seed {run.seed}: made with other settings ({changed})"
    for _, claim in plan.claims:
        for label in sorted(claim.variants, key=claim.depth):
            words = claim.variants[label]
            for i, run in enumerate(plan.variants[words]):
                needed = [plan.variants[claim.variants[one]][i] for one in built_on(words)]
                lost = [one for one in needed if one.folder in stale or not finished([one])]
                if lost and run.folder.exists():
                    stale[run.folder] = (
                        f"{run.label} seed {run.seed}: built on {lost[0].label}, which is made anew"
                    )
    return stale


def changed_setting(run: Planned, resolve: Resolve) -> str:
    """The first setting of a begun run that differs from what its words mean (empty: none does)."""
    if not (run.folder / "config.toml").exists():
        return ""
    config = resolve(run.words[1:])
    return next(iter(changes(run.folder, table_of(config), FREE)), "")


def forget(stale: dict[Path, str]) -> None:
    """Delete the folders, saying why."""
    for folder, reason in stale.items():
        print(f"{reason}; anew", flush=True)
        shutil.rmtree(folder)
