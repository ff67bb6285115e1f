"""The view of SDPO: what the environment said of the attempt, and how a sibling solved it (SRPO, SDPO)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from selfteach.roles.view import Messages, revealed
from selfteach.task.trajectory import Trajectory

_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Reprompt:
    """The question, a right answer from the rollout's group, the verifier's feedback, and the task again.

    ``sibling``: show the first right rollout of the group, without its thoughts; ``own_success`` lets a right rollout
    be shown to itself. ``feedback``: show the verifier's text about this rollout always, only where no right sibling
    stands, or never. ``readers``: whom it is made for at all; other rollouts cost no teacher. A section without content
    is dropped; None if both are. The attempt itself is never shown: with it the teacher imitates the attempt (SDPO,
    table 6).
    """

    sibling: bool = True
    feedback: Literal["always", "without-sibling", "never"] = "without-sibling"
    own_success: bool = False
    readers: Literal["all", "wrong", "right"] = "all"
    solution_section: str = "\n\nThis is how the problem can be solved:\n\n{sibling}"
    feedback_section: str = "\n\nAn earlier attempt failed. What was said of it:\n\n{feedback}"
    closing: str = "\n\nNow solve the original problem correctly."
    name: ClassVar[str] = "reprompt"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        if not self.reads(trajectory):
            return None
        shown = self.demonstration(trajectory, group)
        said = self.said(trajectory, shown is not None)
        present = [name for name, text in (("sibling", shown), ("feedback", said)) if text]
        if not present:
            return None
        sections = {"sibling": self.solution_section, "feedback": self.feedback_section}
        default = "{problem}" + "".join(sections[name] for name in present) + self.closing
        template = wording.get("+".join(present), default)
        return revealed(trajectory.example, template, sibling=shown or "", feedback=said or "")

    def reads(self, trajectory: Trajectory) -> bool:
        kinds = {"all": (True, False), "wrong": (False,), "right": (True,)}
        return trajectory.grade is None or trajectory.grade.correct in kinds[self.readers]

    def demonstration(self, trajectory: Trajectory, group: Sequence[Trajectory]) -> str | None:
        if not self.sibling:
            return None
        right = (
            one
            for one in group
            if one.grade is not None and one.grade.correct and (self.own_success or one is not trajectory)
        )
        return next((_THOUGHT.sub("", one.text) for one in right), None)

    def said(self, trajectory: Trajectory, demonstrated: bool) -> str | None:
        hidden = self.feedback == "never" or (self.feedback == "without-sibling" and demonstrated)
        return None if hidden or trajectory.grade is None else trajectory.grade.feedback
