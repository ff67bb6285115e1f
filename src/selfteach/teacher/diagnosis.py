"""The view of TRACE: what kind of thing was marked in the answer, neither where nor what (card 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfteach.task.rollout import Rollout
from selfteach.teacher.view import Messages, revealed


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
        self, rollout: Rollout, group: Sequence[Rollout], wording: Mapping[str, str]
    ) -> Messages | None:
        if rollout.annotation is None:
            return None
        template = wording.get(self.name, self.template)
        return revealed(rollout.example, template, diagnosis=rollout.annotation.kind)
