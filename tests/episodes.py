"""Tools that play prepared rollouts, for tests of what recipes make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from selfteach.recipes.kit import Grade, Prompt, Told, Trajectory
from selfteach.task.example import Example, Message
from selfteach.training.text.store import NamedStore


def prompt(key: str, group: int, problem: str = "open the door") -> Prompt:
    return Prompt(Example(key, (Message(role="user", content=problem),)), [0], group)


@dataclass
class Episodes:
    """``outcomes``: text and reward (None: nobody grades it) of the rollouts in the order in which they are played."""

    outcomes: list[tuple[str, float | None]] = field(default_factory=list)
    kept: dict[str, NamedStore] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """What the player was asked, a rollout each."""
    written: list[str] = field(default_factory=list)
    """What was asked of those who write."""

    def store(self, name: str) -> NamedStore:
        return self.kept.setdefault(name, NamedStore())

    def play(self, prompts: Sequence[Prompt], n: int = 1) -> list[Trajectory]:
        self.asked += [one.example.prompt[-1]["content"] for one in prompts for _ in range(n)]
        return [self.one(each) for each in prompts for _ in range(n)]

    def one(self, asked: Prompt) -> Trajectory:
        text, reward = self.outcomes.pop(0)
        made = Trajectory.written(
            asked.example,
            asked.prompt_ids,
            [1, 2],
            text,
            group=asked.group,
            finished=True,
            behavior=[-1.0, -1.0],
        )
        return made if reward is None else made.graded(Grade(reward))

    def grade(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        return list(rows)

    def prompt(self, one: Prompt | Trajectory, view: Told, room: int | None = None) -> Prompt | None:
        begun = one if isinstance(one, Trajectory) else Trajectory(one.example, [0], (), "", one.group, False)
        messages = view(begun, [begun], {})
        return None if messages is None else Prompt(begun.example.behind(messages), [0], begun.group)

    def sample(self, begun: Sequence[Prompt], **how: Any) -> list[Trajectory]:
        asked = [one.example.prompt[-1]["content"] for one in begun]
        self.written += asked
        return [
            Trajectory.written(one.example, [0], [1], f"of {said[-9:]}", group=one.group, finished=True)
            for one, said in zip(begun, asked, strict=True)
        ]
