"""Prompts in the task's order, past those that leave no room for an answer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from random import Random

import torch

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, with_knobs
from selfteach.recipes.tools import Prompt
from selfteach.task.example import Example, Task
from selfteach.task.split import fingerprint

TOO_MANY = 100
"""So many prompts in a row without room for an answer are a mistake, not bad luck."""
LETTERS = 100
"""A text has no more than so many characters a token, whatever the tokenizer."""


@dataclass
class PromptStream:
    """``cursor`` (the task's next example) and ``too_long`` (how many were passed over) are all it must remember.

    ``kept_out``: fingerprints of problems that are passed over, in whatever epoch they come."""

    task: Task
    policy: Policy
    thinking: bool | None
    max_tokens: int
    knob: str = "it"
    """What to lower for shorter answers."""
    cursor: int = 0
    too_long: int = 0
    kept_out: frozenset[int] = frozenset()

    def take(self, count: int) -> list[Prompt]:
        """The next ``count`` prompts that fit, groups numbered from 0. UserError if a hundred in a row are too long, or
        if no problem is left that is not kept out."""
        taken: list[Prompt] = []
        in_a_row = kept_in_a_row = 0
        while len(taken) < count:
            example = self.task.train(self.cursor)
            self.cursor += 1
            if self.kept_out and fingerprint(example.problem) in self.kept_out:
                kept_in_a_row += 1
                require(
                    kept_in_a_row < TOO_MANY * (1 + len(self.kept_out)),
                    f"task {self.task.name} has no problem left to train on: {len(self.kept_out)} are kept out, to be "
                    "measured on; give it more problems, or have the method keep fewer",
                )
                continue
            kept_in_a_row = 0
            ids = self.ids_of(example)
            if ids is not None:
                taken.append(Prompt(example, ids, len(taken)))
                in_a_row = 0
                continue
            self.too_long += 1
            in_a_row += 1
            if in_a_row >= TOO_MANY:
                raise UserError(
                    f"{TOO_MANY} prompts in a row of task {self.task.name} leave no room for an answer: prompt + the "
                    f"stage's longest answer, {self.max_tokens} tokens, exceed the model's window of "
                    f"{self.policy.window}; lower {self.knob}"
                )
        return taken

    def sample(self, records: int, rate: float, key: str) -> list[Prompt]:
        """Each of the task's first ``records`` examples with chance ``rate``, whatever the others do, in their order
        (Poisson sampling); those that do not fit are passed over. The draw follows from ``key`` alone."""
        generator = torch.Generator().manual_seed(Random(key).getrandbits(63))
        chosen = torch.rand(records, generator=generator, dtype=torch.float64) < rate
        taken: list[Prompt] = []
        for index in chosen.nonzero().flatten().tolist():
            example = self.task.train(index)
            if fingerprint(example.problem) in self.kept_out:
                continue
            ids = self.ids_of(example)
            if ids is None:
                self.too_long += 1
                continue
            taken.append(Prompt(example, ids, len(taken)))
        return taken

    def ids_of(self, example: Example) -> list[int] | None:
        """The prompt's ids; None if it leaves no room for an answer, which of a huge one is known without ids."""
        if sum(len(m["content"]) for m in example.prompt) > LETTERS * self.policy.window:
            return None
        ids = self.policy.renderer.prompt_ids(example.prompt, self.thinking)
        return ids if len(ids) + self.max_tokens <= self.policy.window else None


def knob_of_longest(recipe: Recipe, stage: str) -> str:
    """The option (``--max-tokens``) that sets a stage's longest answer; "it" where none does."""
    own = knobs(recipe)
    for name, kind in type(recipe).sizes.items():
        if kind != "tokens" or name not in own:
            continue
        with suppress(UserError):  # a recipe whose knobs refuse another value
            longer = with_knobs(recipe, {name: own[name] + 1})
            if longer.stages[stage].rollouts.max_tokens != recipe.stages[stage].rollouts.max_tokens:
                return f"--{name.replace('_', '-')}"
    return "it"
