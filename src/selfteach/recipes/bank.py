"""An experience bank: short texts that earlier rollouts left behind, and what each of them was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from selfteach.task.trajectory import Trajectory


class Experience(TypedDict):
    """One text. ``key`` and ``problem`` are those of the example that it was made of; ``reward`` is the mean reward of
    the ``uses`` groups that it was retrieved for (0 before any); ``gap`` how far apart the rewards lay that it tells
    of."""

    key: str
    problem: str
    text: str
    reward: float
    uses: int
    gap: float


class Eviction(Protocol):
    """Which of these, the oldest first and the newest last, a bank that is full gives up: its place."""

    def __call__(self, entries: Sequence[Experience]) -> int: ...


def oldest(entries: Sequence[Experience]) -> int:
    """First in, first out."""
    return 0


def least_gap(entries: Sequence[Experience]) -> int:
    """The one that tells of the smallest difference of rewards, of equals the oldest; never the newest."""
    return min(range(max(1, len(entries) - 1)), key=lambda i: entries[i]["gap"])


@dataclass
class Bank:
    """Experiences in the ``notes`` of a store of the run, which are part of its checkpoint: at most ``capacity``, at
    most ``per_key`` of one example (None: as many as there is room for); ``evict`` says which goes. A store is its
    process's own: of several each remembers what it has met."""

    notes: dict[str, Any]
    capacity: int
    per_key: int | None = None
    evict: Eviction = oldest

    @property
    def entries(self) -> list[Experience]:
        """All of them, the oldest first."""
        found: list[Experience] = self.notes.setdefault("entries", [])
        return found

    def of(self, key: str) -> list[Experience]:
        """Those of one example, the oldest first."""
        return [one for one in self.entries if one["key"] == key]

    def add(self, key: str, problem: str, text: str, gap: float = 0.0) -> None:
        """A new text, unless the example has the very same one already; what is too many goes."""
        own = self.of(key)
        if any(one["text"] == text for one in own):
            return
        new = Experience(key=key, problem=problem, text=text, reward=0.0, uses=0, gap=gap)
        self.entries.append(new)
        if self.per_key is not None and len(own) >= self.per_key:
            self.drop([*own, new])
        if len(self.entries) > self.capacity:
            self.drop(self.entries)

    def drop(self, among: Sequence[Experience]) -> None:
        gone = among[self.evict(among)]
        self.entries.remove(gone)
        if not self.of(gone["key"]):
            self.asked.pop(gone["key"], None)

    @property
    def asked(self) -> dict[str, int]:
        """Example → how often one of its experiences was retrieved."""
        found: dict[str, int] = self.notes.setdefault("asked", {})
        return found

    def used(self, one: Experience, reward: float) -> None:
        """It was retrieved for rollouts of this mean reward."""
        one["uses"] += 1
        one["reward"] += (reward - one["reward"]) / one["uses"]
        self.asked[one["key"]] = self.asked.get(one["key"], 0) + 1


def reward_of(one: Trajectory) -> float:
    """A rollout's reward (0: nobody graded it)."""
    return 0.0 if one.grade is None else one.grade.reward
