"""Whether a run reads what a teacher cache holds."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING

from selfteach.task.split import fingerprint
from selfteach.training.text.preflight.check import Check
from selfteach.training.text.teachers.cache import TeacherCache

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

COMPARED = 64
"""Prompts that are held against the run's own: to draw them costs time."""


def cache_checks(run: TextLearner) -> Iterator[Check]:
    """Nothing where the run has no cache; else what it reads of it, and a warning of what does not fit."""
    if isinstance(cache := run.models.handed, TeacherCache):
        rows, prompts = len(cache.stored), len({one.group for one in cache.stored})
        misfits = [*unread(run, cache, prompts), *of_other_problems(run, cache)]
        told = "; ".join([f"{rows} answers to {prompts} prompts are read", *misfits])
        yield Check("cache", True, told, warns=bool(misfits))


def unread(run: TextLearner, cache: TeacherCache, prompts: int) -> Iterator[str]:
    """What of the cache the run never reads, and what of ``--stored`` was not given to it."""
    optimization, asked = run.recipe.optimization, run.recipe.rollouts.stored
    left = len(cache.held) - len(cache.stored)
    if left:
        yield f"--stored {asked} leaves {left} further answers of the cache unread"
    if cache.made.stored is None and asked > prompts:
        yield f"--stored {asked} wants more prompts than the answers were given for"
    if (taken := optimization.steps * optimization.prompts) < prompts:
        yield (
            f"{optimization.steps} steps of {optimization.prompts} prompts take {taken} of them: the answers to "
            f"{prompts - taken} prompts are never read"
        )


def of_other_problems(run: TextLearner, cache: TeacherCache) -> Iterator[str]:
    """Whether the answers are to other problems than the run would have drawn itself."""
    first = {one.group: one.example.problem for one in reversed(cache.stored) if one.group < COMPARED}
    if not first:
        return
    drawn = copy(run.writing.prompts).take(max(first) + 1)
    other = sum(
        fingerprint(problem) != fingerprint(drawn[group].example.problem) for group, problem in first.items()
    )
    if other:
        yield (
            f"{other} of the first {len(first)} are other problems than this run draws (another --task, --seed or "
            "data): it learns from the cache's"
        )
