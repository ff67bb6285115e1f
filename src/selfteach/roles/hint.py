"""The view of TT-OPD: the student's prompt, and behind it a turn that hints at how the rollout came out (TT-OPD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfteach.roles.view import Messages
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Hint:
    """The conversation with one more user message: ``right`` or ``wrong``, as the rollout was graded. An empty text and
    a rollout that nobody graded leave the plain prompt."""

    right: str
    wrong: str
    name: ClassVar[str] = "outcome-hint"
    fields: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, trajectory: Trajectory, group: Sequence[Trajectory], wording: Mapping[str, str]
    ) -> Messages | None:
        prompt = trajectory.example.prompt
        if trajectory.grade is None:
            return prompt
        text = self.right if trajectory.right else self.wrong
        return (*prompt, Message(role="user", content=text)) if text else prompt
