"""A rollout: the tokens a policy wrote for one example, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from selfteach.task.example import Example, Grade


@dataclass(frozen=True)
class Rollout:
    """Token ids after the prompt, aligned lists of equal length T.

    ``mask[t]`` is True where the policy itself wrote the token (tool output: False); ``behaviour[t]`` is its
    log-prob in nats under the sampling distribution (None if it was not sampled); ``turn[t]`` counts turns
    from 0; ``finished`` says that it ended by itself, not by the length limit; ``group`` is shared by the
    rollouts of one prompt in a step.
    """

    example: Example
    prompt_ids: list[int]
    ids: list[int]
    mask: list[bool]
    text: str
    group: int
    finished: bool
    behaviour: list[float] | None = None
    turn: list[int] = field(default_factory=list)
    grade: Grade | None = None

    def graded(self, grade: Grade) -> Rollout:
        return replace(self, grade=grade)
