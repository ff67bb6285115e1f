"""Rollouts that are written once and trained on for a whole stage (cards 10, 11, 41)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from selfteach.errors import UserError
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Store:
    """``rollouts`` of a stage, reshuffled each epoch; ``take`` is a pure function of the step."""

    rollouts: Sequence[Trajectory]
    seed: str

    def __post_init__(self) -> None:
        if not self.rollouts:
            raise UserError(
                "no stored answer is left to train on: none passed the verifier; raise --stored or the attempts, "
                "or look at the task's grading"
            )

    @cached_property
    def by_group(self) -> dict[int, list[Trajectory]]:
        groups: dict[int, list[Trajectory]] = {}
        for one in self.rollouts:
            groups.setdefault(one.group, []).append(one)
        return groups

    def take(self, step: int, groups: int) -> list[Trajectory]:
        """The rollouts of the ``groups`` prompts whose turn it is at ``step`` = 0, 1, 2 …"""
        names = sorted(self.by_group)
        places = [divmod(nth, len(names)) for nth in range(step * groups, (step + 1) * groups)]
        orders = {
            epoch: Random(f"{self.seed} epoch {epoch}").sample(names, len(names))
            for epoch in {epoch for epoch, _ in places}
        }
        return [one for epoch, place in places for one in self.by_group[orders[epoch][place]]]

    def save(self, path: Path) -> None:
        """Write the rollouts as JSON lines, whole or not at all. UserError if the disk refuses."""
        aside = path.with_name(f".{path.name}.partial")
        lines = (json.dumps(one.to_json(), allow_nan=False) + "\n" for one in self.rollouts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text("".join(lines), encoding="ascii")
            aside.replace(path)
        except OSError as problem:
            raise UserError(f"{path} could not be written ({problem.strerror}); make room") from problem

    @classmethod
    def load(cls, path: Path, seed: str) -> Store:
        """What ``save`` wrote, exactly. UserError if it is not there or was changed."""
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
            return cls([Trajectory.from_json(row) for row in rows], seed)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UserError(
                f"the stored answers in {path} cannot be read ({problem}); start anew"
            ) from problem
