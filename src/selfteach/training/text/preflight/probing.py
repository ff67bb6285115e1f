"""A few examples of a run, tried out beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.batch import STUDENT
from selfteach.objective.positions import Quantity
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs, with_knobs
from selfteach.recipes.tools import Prompt
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.batching import Batching
from selfteach.training.text.contexts import Context
from selfteach.training.text.metrics import gap

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

PROBES = 4
PROBE_TOKENS = 48
PROBE_GROUP = 2


@contextmanager
def aside(run: TextLearner) -> Iterator[None]:
    """What is sampled inside leaves the run's random state as it was."""
    devices = [run.policy.model.device] if run.policy.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield


def small_copy(run: TextLearner) -> TextLearner:
    """The same learner with a small recipe, that leaves data and stores alone."""
    short = copy(run)
    short.now = replace(run.now, recipe=small_recipe(run.recipe))
    short.batching = Batching(short.now, run.models)
    short.writing = run.writing.aside(short.now, short.batching)
    return short


def small_recipe(recipe: Recipe) -> Recipe:
    """The recipe with short answers, few of each prompt and of what else is counted by the prompt, tried once."""
    own, most = knobs(recipe), {"tokens": PROBE_TOKENS, "group": PROBE_GROUP}
    sizes: Mapping[str, str] = {**recipe.sizes, "per_prompt": "group"}
    small = {
        name: min(most[size], own[name]) for name, size in sizes.items() if size in most and own.get(name)
    }
    return with_knobs(recipe, {**small, **({"attempts": 1} if "attempts" in own else {})})


def first_prompts(run: TextLearner) -> list[Prompt]:
    """The prompts that the run will begin with; it takes them again."""
    return copy(run.writing.prompts).take(PROBES)


def probe_rollouts(short: TextLearner) -> tuple[list[Trajectory], bool]:
    """A few rollouts written as the recipe writes them, and True; the student's own and False if it kept none."""
    if (handed := short.models.handed) is not None and handed.stored:
        few = list(dict.fromkeys(one.group for one in handed.stored))[:PROBES]
        return [one for one in handed.stored if one.group in few], True
    prompts = short.writing.prompts.take(PROBES)
    with short.models.whole_to_write(short.recipe, own=True):
        written = short.recipe.rollout(short.writing.tools(0), prompts, 0)
        kept = bool(written)
        if not kept:
            short.progress.say(
                f"the recipe kept none of its {len(prompts)} short rollouts; the student's are looked at"
            )
            written = short.writing.tools(0).play(prompts)
    return short.writing.judged(written), kept


def divergences(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context
) -> Float[Tensor, "n T"]:
    """[n, T] KL(role‖student) in nats of this process's rows, 0 where nothing was scored."""
    temperature = run.recipe.temperature
    return measured(
        run, name, rollouts, seen, Quantity(lambda at: gap(at, name, temperature), (STUDENT, name))
    )


def log_probs(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context
) -> Float[Tensor, "n T"]:
    """[n, T] the role's log-prob (nats) of each response token of this process's rows."""
    return measured(run, name, rollouts, seen, Quantity(lambda at: at.sampled(name), (name,)))


@torch.no_grad()
def measured(
    run: TextLearner, name: str, rollouts: Sequence[Trajectory], seen: Context, wanted: Quantity
) -> Float[Tensor, "n T"]:
    # Every process checks its own rollouts: one may have less to check than another.
    scoring = run.batching.scoring(rollouts, {name: seen}, alone=True)
    column = scoring.measure({"wanted": wanted})["wanted"]
    # 0 where the role scored nothing; a NaN that it gave stays one, and fails the check.
    column = torch.where(scoring.columns.seen((name,)), column, 0.0)
    return column
