"""The view of TRACE: what kind of thing was marked in the answer, neither where nor what (TRACE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfteach.roles.view import Messages, revealed
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Diagnosis:
    """The problem with the annotator's coarse type. None if nothing of this rollout was marked."""

    template: str = (
        "{problem}\n\nA reviewer of earlier answers notes that this matters most: {diagnosis}. "
        "Solve the problem with that in mind."
    )
    name: ClassVar[str] = "diagnosis"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        if trajectory.annotation is None:
            return None
        template = wording.get(self.name, self.template)
        return revealed(trajectory.example, template, diagnosis=trajectory.annotation.kind)
