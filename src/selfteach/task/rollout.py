"""A rollout: the tokens a policy wrote for one example, and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from selfteach.task.annotation import Annotation
from selfteach.task.example import Example, Grade


@dataclass(frozen=True)
class Rollout:
    """Token ids after the prompt, aligned lists of equal length T.

    ``mask[t]`` is True where the policy itself wrote the token (tool output: False); ``behavior[t]`` is its
    log-prob in nats under the sampling distribution (None if it was not sampled); ``turn[t]`` counts turns
    from 0; ``finished`` says that it ended by itself, not by the length limit; ``group`` is shared by the
    rollouts of one prompt in a step. ``marks`` names further bool columns over its tokens; ``log_probs`` holds what a
    teacher of signal "sampled" gave its tokens (nats), by teacher name.
    """

    example: Example
    prompt_ids: list[int]
    ids: list[int]
    mask: list[bool]
    text: str
    group: int
    finished: bool
    behavior: list[float] | None = None
    turn: list[int] = field(default_factory=list)
    grade: Grade | None = None
    annotation: Annotation | None = None
    marks: Mapping[str, list[bool]] = field(default_factory=dict)
    log_probs: Mapping[str, list[float]] = field(default_factory=dict)

    def graded(self, grade: Grade) -> Rollout:
        return replace(self, grade=grade)
