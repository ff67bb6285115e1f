"""Trajectories that outlive a step: trained on again and again, replayed, or remembered (SD-Zero, MixSD …)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import is_
from pathlib import Path
from random import Random
from typing import Any, TypedDict

from selfteach.errors import UserError
from selfteach.outside import blamed
from selfteach.task.trajectory import Trajectory
from selfteach.training import marks
from selfteach.training.checkpoint import sync
from selfteach.training.marks import Mark
from selfteach.training.rundir import writing

SERVED = "served"
"""The store whose notes say what servers were asked for, in preflight too: their budgets are of all of it."""


class Version(TypedDict):
    """One of the files that a store was written to, and how it was then."""

    version: int
    mark: Mark


@dataclass
class NamedStore:
    """``trajectories`` and ``notes`` (plain values) under a name of the run."""

    trajectories: list[Trajectory] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    version: int = field(default=0, compare=False)
    saved: tuple[list[Trajectory], str] | None = field(default=None, compare=False)
    written: Version | None = field(default=None, compare=False)

    def take(self, step: int, groups: int, seed: str) -> list[Trajectory]:
        """Those of the ``groups`` prompts whose turn it is at ``step`` = 0, 1, 2 …: every epoch in another order, a
        pure function of ``seed`` and the step."""
        by_group: dict[int, list[Trajectory]] = {}
        for one in self.trajectories:
            by_group.setdefault(one.group, []).append(one)
        if not by_group:
            return []
        names = sorted(by_group)
        places = [divmod(nth, len(names)) for nth in range(step * groups, (step + 1) * groups)]
        orders = {
            epoch: Random(f"{seed} epoch {epoch}").sample(names, len(names))
            for epoch in {epoch for epoch, _ in places}
        }
        return [one for epoch, place in places for one in by_group[orders[epoch][place]]]

    def save(self, path_of: Callable[[int], Path], keep: int) -> Version:
        """Write it as JSON lines, synced, whole or not at all, if it has changed; what is on the disk now.

        Each change is a file of its own, so that an older checkpoint finds what it knew; the last ``keep`` stay.
        UserError if the disk refuses.
        """
        if self.written is not None and self.unchanged and path_of(self.version).exists():
            return self.written
        self.version += 1
        path = path_of(self.version)
        aside = path.with_name(f".{path.name}.partial")
        rows = [self.notes, *(one.to_json() for one in self.trajectories)]
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            aside.write_text(text, encoding="ascii")
            sync(aside)
            aside.replace(path)
            sync(path.parent)
            path_of(self.version - keep - 1).unlink(missing_ok=True)
            self.written = Version(version=self.version, mark=marks.mark_of(path))
        self.saved = (list(self.trajectories), json.dumps(self.notes))
        return self.written

    @property
    def unchanged(self) -> bool:
        """Since it was last written. Trajectories never change: it is enough that they are the same ones."""
        if self.saved is None:
            return False
        before, notes = self.saved
        same = len(before) == len(self.trajectories) and all(map(is_, before, self.trajectories))
        return same and notes == json.dumps(self.notes)

    @classmethod
    def load(cls, path_of: Callable[[int], Path], written: Version) -> NamedStore:
        """What ``save`` wrote as this version, exactly. UserError if it is not there or was changed."""
        path, mark = path_of(written["version"]), written["mark"]
        wrong = marks.fault(path, mark)
        if wrong is not None or path.stat().st_size > mark["bytes"]:
            raise UserError(
                f"the stored answers in {path}: the file {wrong or 'has grown'}, and the run relies on it: put it back "
                "as it was, or start a new run"
            )
        with blamed(f"the stored answers in {path}", "start anew"):  # rows that this version would not write
            notes, *rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
            stored = [Trajectory.from_json(row) for row in rows]
            return cls(stored, dict(notes), written["version"], (list(stored), json.dumps(notes)), written)


def require_answers(count: int) -> None:
    """UserError if nothing was stored."""
    if not count:
        raise UserError(
            "no stored answer is left to train on: none passed the verifier; raise --stored or the attempts, "
            "or look at the task's grading"
        )
