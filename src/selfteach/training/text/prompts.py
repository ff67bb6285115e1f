"""Prompts in the task's order, past those that leave no room for an answer."""

from __future__ import annotations

from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.recipes.tools import Prompt
from selfteach.task.example import Task
from selfteach.task.split import fingerprint

TOO_MANY = 100
"""So many prompts in a row without room for an answer are a mistake, not bad luck."""


@dataclass
class PromptStream:
    """``cursor`` (the task's next example) and ``too_long`` (how many were passed over) are all it must remember.

    ``kept_out``: fingerprints of problems that are passed over, in whatever epoch they come."""

    task: Task
    policy: Policy
    thinking: bool | None
    max_tokens: int
    cursor: int = 0
    too_long: int = 0
    kept_out: frozenset[int] = frozenset()

    def take(self, count: int) -> list[Prompt]:
        """The next ``count`` prompts that fit, groups numbered from 0. UserError if a hundred in a row are too long."""
        taken: list[Prompt] = []
        in_a_row = 0
        while len(taken) < count:
            example = self.task.train(self.cursor)
            self.cursor += 1
            if self.kept_out and fingerprint(example.problem) in self.kept_out:
                continue
            ids = self.policy.renderer.prompt_ids(example.prompt, self.thinking)
            if len(ids) + self.max_tokens <= self.policy.window:
                taken.append(Prompt(example, ids, len(taken)))
                in_a_row = 0
                continue
            self.too_long += 1
            in_a_row += 1
            if in_a_row >= TOO_MANY:
                raise UserError(
                    f"{TOO_MANY} prompts in a row of task {self.task.name} leave no room for an answer: prompt + "
                    f"max_tokens {self.max_tokens} exceeds the model's window of {self.policy.window} tokens; lower "
                    "--max-tokens"
                )
        return taken
