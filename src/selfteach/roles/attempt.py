"""Views that put words into the assistant's mouth before the scored tokens: evidence, or the attempt itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfteach.roles.view import Messages, begun, filled
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Evidence:
    """A final answer spliced in where the assistant begins to speak, without a word of instruction (CEPO).

    The right answer, or with ``wrong`` the one that the group's worst wrong rollout gave: its claim, else the first
    ``longest`` characters of its text. A group without a wrong rollout shows the right answer, so that both scores
    are equal. None if the example has no answer.
    """

    wrong: bool = False
    longest: int = 50
    template: str = " {answer}"
    name: ClassVar[str] = "evidence"

    @property
    def fields(self) -> tuple[str, ...]:
        return () if self.wrong else ("answer",)

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        answer = trajectory.example.private.get("answer")
        if not answer:
            return None
        shown = (self.rejected(group) or answer) if self.wrong else answer
        reply = filled(trajectory.example, wording.get(self.name, self.template), answer=shown)
        return None if reply is None else begun(trajectory.example, reply)

    def rejected(self, group: Sequence[Trajectory]) -> str | None:
        """What the wrong rollout of lowest reward claims."""
        wrong = [(one.grade.reward, one) for one in group if one.grade is not None and not one.grade.correct]
        if not wrong:
            return None
        _, worst = min(wrong, key=lambda pair: pair[0])
        claim = worst.grade.claim if worst.grade is not None else None
        return (claim or worst.text)[: self.longest]


@dataclass(frozen=True)
class Revision:
    """The whole attempt followed by a phrase that says whether it was right; then it is scored again (SD-Zero).

    The teacher reads the very tokens that it is to score. Wordings: "revise-right" and "revise-wrong", which hold
    {attempt}. None before the attempt is graded.
    """

    right: str = "{attempt}\n\nThat is right. Let me say it again in better words.\n\n"
    wrong: str = "{attempt}\n\nWait, that is not right. Let me start again.\n\n"
    name: ClassVar[str] = "revision"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        if trajectory.grade is None:
            return None
        right = trajectory.grade.correct
        template = wording.get(
            "revise-right" if right else "revise-wrong", self.right if right else self.wrong
        )
        reply = filled(trajectory.example, template, attempt=trajectory.text)
        return None if reply is None else begun(trajectory.example, reply)
