"""What a run will take: seconds a step, hours, tokens."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.policy.draws import Sampling
from selfteach.policy.economy import PLAIN
from selfteach.policy.loading import Policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.scorer import LocalScorer
from selfteach.recipes.base import Recipe
from selfteach.recipes.tools import Prompt
from selfteach.roles.weights import External
from selfteach.task.environment import environment_of, turns_allowed
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.preflight.model import forget_gradients
from selfteach.training.text.preflight.probing import aside
from selfteach.training.text.present import share
from selfteach.wording import duration

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

FEW, SOME = 1, 5
"""Tokens of two timed samplings: what the second takes longer is that of the tokens between."""
READ, WRITTEN = 96, 32
"""Tokens of the context and the answer whose scoring is timed."""
SMALL = 20_000_000
"""Weights; below it several rows are scored."""


@dataclass(frozen=True)
class StageWork:
    """A stage's steps, as this process does them: ``rows`` a step of ``prompt`` + at most ``tokens`` tokens; ``once``:
    rows written before the first step, and no more after (0: they are written at each)."""

    recipe: Recipe
    steps: int
    rows: int
    once: int
    prompt: int
    tokens: int


def work_of(run: TextLearner, recipe: Recipe, prompt: int) -> StageWork:
    each = recipe.rollouts.per_prompt
    rows = share(recipe.optimization.prompts, run.now.processes) * each
    once = math.ceil(recipe.rollouts.stored / run.now.processes) * each
    return StageWork(recipe, recipe.optimization.steps, rows, once, prompt, longest_row(run, recipe, prompt))


def longest_row(run: TextLearner, recipe: Recipe, prompt: int) -> int:
    """Tokens behind the prompt, at most: an answer; in an environment so many turns, each answered at equal length, as
    far as the window holds them."""
    turn = recipe.rollouts.max_tokens
    if environment_of(run.task) is None:
        return turn
    turns = 2 * turns_allowed(run.task, recipe.rollouts.max_turns) - 1
    return max(turn, min(turns * turn, run.policy.window - prompt))


def work_of_stages(run: TextLearner, prompts: Sequence[Prompt]) -> list[StageWork]:
    """Of every stage; prompts are taken to be as long as the longest of these."""
    longest = max(len(one.prompt_ids) for one in prompts)
    return [work_of(run, recipe, longest) for _, recipe in run.recipes]


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Seconds: of a batch's first token and of each further one, with so many ``rows``; of a token that is scored
    without gradient, and of one with it."""

    rows: int
    first: float
    further: float
    scored: float
    trained: float

    def written(self, rows: int, tokens: int) -> float:
        """Seconds to write rows of so many tokens each."""
        return math.ceil(rows / self.rows) * (self.first + tokens * self.further)


def cost_check(run: TextLearner, prompts: Sequence[Prompt]) -> Check:
    """How long the run will take, from a few tokens that are sampled and scored now; never a reason to refuse."""
    stages = work_of_stages(run, prompts)
    with aside(run):
        speed = speed_of(run, prompts, max(work.once or work.rows for work in stages))
    parts = [step_of(run, work, speed) for work in stages]
    whole = sum(
        work.steps * (sampling + scoring) + speed.written(work.once, work.tokens)
        for work, (sampling, scoring) in zip(stages, parts, strict=True)
    )
    settings, last = run.config.evaluation, stages[-1]
    answers = math.ceil(run.problems_asked * settings.eval_samples / run.now.processes)
    evaluation = speed.written(answers, settings.eval_max_tokens or last.tokens) * (1 + len(run.also))
    times = 2 + (sum(p.steps for p in stages) // settings.eval_every if settings.eval_every else 0)
    tokens = sum(
        (work.once or work.rows * work.steps) * work.tokens for work in stages if work.recipe.generates
    )
    sampling, scoring = parts[-1]
    steps = sum(work.steps for work in stages)
    return Check(
        "cost",
        True,
        f"about {duration(sampling + scoring)} a step ({duration(sampling)} sampling, {duration(scoring)} scoring), "
        f"{duration(evaluation)} an evaluation, {duration(whole + times * evaluation)} for {steps} steps; "
        f"{tokens * run.now.processes:,} tokens generated; if every answer is as long as it may be",
    )


def step_of(run: TextLearner, work: StageWork, speed: Speed) -> tuple[float, float]:
    """(seconds of sampling, of scoring with gradient and by every teacher) of a step."""
    writes = work.recipe.generates and not work.once
    tokens = work.rows * (work.prompt + work.tokens)
    handed = () if run.models.handed is None else run.models.handed.roles
    scoring = [role.weights for name, role in work.recipe.teachers.items() if name not in handed]
    teachers = sum(relative_size(run, weights) for weights in scoring)
    sampling = speed.written(work.rows, work.tokens) if writes else 0.0
    return sampling, tokens * (speed.trained + teachers * speed.scored)


def relative_size(run: TextLearner, spec: object) -> float:
    """Weights of who scores, as a multiple of the student's."""
    if not isinstance(spec, External):
        return 1.0
    return count_weights(run.models.weights.policy_of(spec)) / count_weights(run.policy)


def count_weights(policy: Policy) -> int:
    return sum(p.numel() for p in policy.model.parameters())


def speed_of(run: TextLearner, prompts: Sequence[Prompt], rows: int) -> Speed:
    """Time a few tokens: as many rows as one batch of the run has, and the scoring of a few."""
    policy, contexts = run.policy, [one.prompt_ids for one in prompts]
    tokens = run.recipe.rollouts.max_tokens
    longest = max(map(len, contexts))
    batches = policy.room.sampling([longest] * rows, tokens, run.config.bookkeeping.sample_batch)
    batch = [ids for _, ids in zip(range(len(next(batches))), itertools.cycle(contexts), strict=False)]
    first, _ = sampled(policy, batch, min(FEW, tokens))
    whole, columns = sampled(policy, batch, min(SOME, tokens))
    further = max(0.0, whole - first) / max(1, columns - 1)
    context, answer = contexts[0][-READ:], (contexts[0] * WRITTEN)[:WRITTEN]
    scored_rows = max(
        1, min(len(batch), SMALL // count_weights(policy))
    )  # one of a small model would be overhead alone
    with torch.no_grad():
        scored, _ = timed_states(policy, [context] * scored_rows, [answer] * scored_rows)
    seconds, states = timed_states(policy, [context] * scored_rows, [answer] * scored_rows)
    began = time.perf_counter()
    if states.requires_grad:
        states.float().sum().backward()
        synchronize(policy)
        forget_gradients(policy)
    trained = seconds + time.perf_counter() - began
    length = scored_rows * (len(context) + len(answer))
    return Speed(len(batch), first, further, scored / length, trained / length)


def sampled(policy: Policy, batch: list[list[int]], tokens: int) -> tuple[float, int]:
    """(seconds to write up to so many tokens after each context, the most that one got)."""
    began = time.perf_counter()
    found = LocalSampler(policy).sample(batch, Sampling(tokens), batch_size=len(batch))
    synchronize(policy)
    return time.perf_counter() - began, max(len(one.ids) for one in found)


def timed_states(
    policy: Policy, contexts: list[list[int]], answers: list[list[int]]
) -> tuple[float, Float[Tensor, "P d"]]:
    """Seconds of one padded pass: equal contexts would be computed once, and nothing learned of the others."""
    began = time.perf_counter()
    states = LocalScorer(economy=PLAIN).states(policy, contexts, answers)
    synchronize(policy)
    return time.perf_counter() - began, states


def synchronize(policy: Policy) -> None:
    if policy.model.device.type == "cuda":
        torch.cuda.synchronize(policy.model.device)
