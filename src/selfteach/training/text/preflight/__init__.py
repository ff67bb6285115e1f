"""The checks before step 1. Each would have caught a bug that somebody published (docs/preflight.md).

A run whose teacher is misaligned, blind or identical to the student trains all the same, on noise or on nothing; so
does one whose prompts lack what was asked for, or whose sampler and scorer are two policies. So a few examples go
through the real path first, and a check that fails stops the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from selfteach.errors import UserError, diverged, within_memory
from selfteach.policy.chat_server import names_model
from selfteach.roles.weights import External
from selfteach.training.text.preflight.cached import cache_checks
from selfteach.training.text.preflight.check import Check, indented
from selfteach.training.text.preflight.cost import cost_check
from selfteach.training.text.preflight.memory import memory_check
from selfteach.training.text.preflight.model import (
    gradient_check,
    head_check,
    vocabulary_checks,
    weights_check,
)
from selfteach.training.text.preflight.objective import objective_check
from selfteach.training.text.preflight.offload import offload_check
from selfteach.training.text.preflight.probing import aside, first_prompts, probe_rollouts, small_copy
from selfteach.training.text.preflight.references import reference_checks
from selfteach.training.text.preflight.sampling import sampler_check
from selfteach.training.text.preflight.schedule import schedule_check
from selfteach.training.text.preflight.teachers import teacher_checks, tokenizer_check
from selfteach.training.text.preflight.words import (
    evaluation_check,
    messages_check,
    stops_check,
    template_check,
    thinking_check,
    unknown_check,
)

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

__all__ = ["Check", "examined", "preflight"]


def preflight(run: TextLearner) -> list[Check]:
    """Run every check, show what they found, and refuse to train if one failed (UserError names it)."""
    checks = []
    with within_memory("checking the run"), diverged("preflight"):
        for check in examined(run):
            run.progress.say(f"{check.word}  {check.name}: {check.detail}")
            checks.append(check)
    failed = [check for check in checks if not check.ok]
    if failed:
        raise UserError(f"preflight: {failed[0].name}: {failed[0].detail}")
    return checks


def examined(run: TextLearner) -> Iterator[Check]:
    """The checks one by one. Neither the random state nor the data position of the run moves."""
    for part in (words_and_ids, the_model, the_recipe):
        sound = True
        for check in part(run):
            sound = sound and check.ok
            yield check
        if not sound:  # what follows would run on what was just found to be broken
            return


def words_and_ids(run: TextLearner) -> Iterator[Check]:
    """What right answers earn, and what becomes of the conversation before the model sees it."""
    prompts = first_prompts(run)
    yield from reference_checks(run)
    yield template_check(run)
    yield thinking_check(run)
    yield stops_check(run)
    yield messages_check(
        run, "student", [one.example.prompt for one in prompts], [one.prompt_ids for one in prompts]
    )
    yield from unknown_check(run, "student", [one.prompt_ids for one in prompts])
    yield from evaluation_check(run)
    yield from vocabulary_checks(run, prompts)
    for name, role in run.recipe.others.items():
        if isinstance(role.weights, External):
            yield tokenizer_check(name, run.policy, run.models.weights.policy_of(role.weights))


def the_model(run: TextLearner) -> Iterator[Check]:
    """What it makes of ids, what of it trains, and whether there is room."""
    prompts = first_prompts(run)
    for name in run.recipe.trained:
        policy, title = run.models.policies[name], "" if len(run.recipe.trained) == 1 else f"{name}: "
        yield head_check(title, policy)
        yield weights_check(title, policy)
        with aside(run):
            check = sampler_check(run, title, name, prompts)
        yield check
    memory = memory_check(run, prompts)
    yield memory
    yield from offload_check(run)
    if memory.ok:
        yield cost_check(run, prompts)
    for name in run.recipe.trained if memory.ok else ():
        title = "" if len(run.recipe.trained) == 1 else f"{name}: "
        yield gradient_check(title, run.models.policies[name], prompts[0].prompt_ids)


def the_recipe(run: TextLearner) -> Iterator[Check]:
    """A few rollouts as it writes them, what its teachers think of them, and its terms."""
    yield from schedule_check(run)
    yield from cache_checks(run)
    for server in run.recipe.servers:
        yield Check("server", True, names_model(server))
    short = small_copy(run)
    with aside(run):
        rollouts, kept = probe_rollouts(short)
    run.progress.say(f"the student sees\n{indented(run.policy.renderer.show(rollouts[0].prompt_ids))}")
    sound = True
    for name, teacher in run.recipe.others.items():
        for check in teacher_checks(run, name, teacher, rollouts):
            sound = sound and check.ok
            yield check
    if sound and kept:
        with aside(run):
            check = objective_check(short, rollouts)
        yield check
    elif sound:
        yield Check(
            "objective", True, "the recipe kept none of its short rollouts: its terms are not checked"
        )
