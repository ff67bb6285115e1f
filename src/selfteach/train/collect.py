"""From examples to graded rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.sampler import GenerateSampler, Sampling
from selfteach.recipes.base import Rollouts
from selfteach.task.example import Example, Task
from selfteach.task.segment import DATA
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Asked:
    """An example and the student's prompt for it, which fits the context window."""

    example: Example
    prompt_ids: list[int]


@dataclass
class Draw:
    """Examples in the task's order, past those whose prompt is too long; ``cursor`` is all it must remember."""

    task: Task
    policy: Policy
    thinking: bool | None
    max_tokens: int
    cursor: int = 0
    too_long: int = 0

    def take(self, count: int) -> list[Asked]:
        """The next ``count`` examples that fit. UserError if a hundred in a row (or all) are too long."""
        taken: list[Asked] = []
        in_a_row = 0
        while len(taken) < count:
            example = self.task.train(self.cursor)
            self.cursor += 1
            ids = self.policy.renderer.prompt_ids(example.prompt, self.thinking)
            if len(ids) + self.max_tokens <= self.policy.window:
                taken.append(Asked(example, ids))
                in_a_row = 0
                continue
            self.too_long += 1
            in_a_row += 1
            if in_a_row >= 100:
                raise UserError(
                    f"100 prompts in a row of task {self.task.name} leave no room for an answer: prompt + max_tokens "
                    f"{self.max_tokens} exceeds the model's window of {self.policy.window} tokens; lower --max-tokens"
                )
        return taken


def sampled_rollouts(
    policy: Policy, asked: Sequence[Asked], rollouts: Rollouts, *, first_group: int, batch_size: int | None
) -> list[Trajectory]:
    """``per_prompt`` answers of the policy to each prompt, in order; groups are numbered from ``first_group``."""
    sampling = Sampling(rollouts.max_tokens, rollouts.temperature, rollouts.top_p, rollouts.top_k)
    wanted = [(first_group + i, one) for i, one in enumerate(asked) for _ in range(rollouts.per_prompt)]
    prompts = [one.prompt_ids for _, one in wanted]
    samples = GenerateSampler(policy).sample(prompts, sampling, batch_size=batch_size)
    return [
        Trajectory.written(
            one.example,
            one.prompt_ids,
            written.ids,
            policy.renderer.text(written.ids),
            group=group,
            finished=written.finished,
            behavior=written.behavior,
            temperature=rollouts.temperature,
        )
        for (group, one), written in zip(wanted, samples, strict=True)
    ]


def reference_rollouts(
    policy: Policy,
    asked: Sequence[Asked],
    field: str,
    *,
    max_tokens: int,
    thinking: bool | None,
    first_group: int,
) -> list[Trajectory]:
    """The data's own text in ``field`` as if the policy had written it (no behavior log-probs)."""
    rollouts = []
    for i, one in enumerate(asked):
        text = one.example.private.get(field)
        if not text:
            raise UserError(
                f"example {one.example.key} has no {field!r} to imitate; known: {known(one.example)}"
            )
        ids = policy.renderer.completion_ids(text, thinking)
        rollouts.append(
            Trajectory.written(
                one.example,
                one.prompt_ids,
                ids[:max_tokens],
                text,
                group=first_group + i,
                finished=len(ids) <= max_tokens,
                origin=DATA,
            )
        )
    return rollouts


def graded(task: Task, rollouts: Sequence[Trajectory]) -> list[Trajectory]:
    """Each rollout with the task's grade of its text; one that has a grade keeps it."""
    return [one if one.grade else one.graded(task.grade(one.example, one.text)) for one in rollouts]


def known(example: Example) -> str:
    return ", ".join(sorted(example.private)) or "no private field"
