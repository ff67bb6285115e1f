"""What every probe looks at: graded rollouts of the untrained student, and what each view's teacher makes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.objective.statistics import Statistics
from selfteach.policy.draws import Sampling
from selfteach.recipes.base import Recipe
from selfteach.roles.attempt import Evidence, Revision
from selfteach.roles.private import Field, Partial
from selfteach.roles.role import Role
from selfteach.roles.sibling import Reprompt
from selfteach.roles.view import Answer, Plain, Solution, View
from selfteach.roles.weights import External, Live
from selfteach.task.environment import environment_of
from selfteach.task.trajectory import Trajectory
from selfteach.training.config import TrainConfig
from selfteach.training.launch import learner_of
from selfteach.training.progress import Progress
from selfteach.training.text.batch import Scoring
from selfteach.training.text.contexts import Context
from selfteach.training.text.learner import TextLearner

VIEWS: Mapping[str, View] = {
    "plain": Plain(),
    "solution": Solution(),
    "partial": Partial(),
    "answer": Answer(),
    "evidence": Evidence(),
    "sibling": Reprompt(feedback="never"),
    "feedback": Reprompt(sibling=False, feedback="always"),
    "revision": Revision(),
}
"""The views a probe may be asked for by name; ``field:NAME`` shows any private field."""
FIELD = "field:"


@dataclass(frozen=True)
class Scene:
    """``rollouts`` [N] of one step, graded; ``teachers`` by name with their ``contexts``; ``scoring`` scores by all."""

    learner: TextLearner
    rollouts: list[Trajectory]
    teachers: Mapping[str, Role]
    contexts: Mapping[str, Context]
    scoring: Scoring

    @property
    def recipe(self) -> Recipe:
        return self.learner.recipe

    @property
    def groups(self) -> list[int]:
        return [one.group for one in self.rollouts]

    @property
    def correct(self) -> list[bool]:
        return [one.grade is not None and one.grade.correct for one in self.rollouts]

    @property
    def sampling(self) -> Sampling:
        drawn = self.recipe.rollouts
        return Sampling(drawn.max_tokens, drawn.temperature, drawn.top_p, drawn.top_k)

    @property
    def batch_size(self) -> int | None:
        """Answers sampled at once (None: as many as there is memory for)."""
        return self.learner.config.bookkeeping.sample_batch

    def statistics(self, temperature: float, teachers: Collection[str]) -> Statistics:
        """The rollouts' columns with these teachers, as a recipe reads them at step 0."""
        return Statistics(
            self.scoring.columns,
            step=0,
            temperature=temperature,
            roles=list(teachers),
            measure=torch.no_grad()(self.scoring.measure),
        )

    def shown(self, name: str) -> str:
        """A teacher's name and what it sees: ``teacher (solution)``; a view asked for by name is its own name."""
        return f"{name} ({self.teachers[name].view.name})" if name in self.recipe.teachers else name


def set_scene(config: TrainConfig, views: Sequence[str], progress: Progress) -> Scene:
    """Load the run's model and task, sample and grade one step's rollouts, and render every teacher's view of them.

    Of a recipe in stages the first is looked at. ``views`` adds teachers of the student's own weights to the
    recipe's. Raises UserError for an unknown view, where a recipe's teacher sees too little (as in training), and for
    a task whose problems are episodes.
    """
    learner = learner_of(config, progress)
    require(
        environment_of(learner.task) is None,
        f"task {learner.task.name} is an environment of several turns: a probe looks at single answers",
    )
    recipe = learner.recipe
    if type(recipe).rollout is not Recipe.rollout:
        progress.say(
            f"recipe {config.recipe_name} writes in its own way; a probe looks at plain answers of the student"
        )
    extra = viewed(views, recipe.teachers)
    progress.say(f"sampling {recipe.optimization.prompts * recipe.rollouts.per_prompt} rollouts")
    written, _ = learner.writing.write(recipe.optimization.prompts, 0, partial(Recipe.rollout, recipe))
    rollouts = learner.writing.judged(written)
    contexts = {
        **learner.batching.contexts(rollouts, learner.batching.readers(recipe.teachers)),
        **{name: learner.batching.reading.context(role, rollouts) for name, role in extra.items()},
    }
    scoring = replace(learner.batching.scoring(rollouts, contexts), roles={**recipe.roles, **extra})
    return Scene(learner, rollouts, {**recipe.teachers, **extra}, contexts, scoring)


def viewed(names: Sequence[str], teachers: Mapping[str, Role]) -> dict[str, Role]:
    """A teacher of the student's own weights for each view name, with the thinking flag of the recipe's first.

    A view that a teacher of the recipe has already is not asked twice.
    """
    thinking = next((one.thinking for one in teachers.values()), None)
    had = [one.view for one in teachers.values() if not isinstance(one.weights, External)]
    views = {name: view_named(name) for name in names}
    return {name: Role(Live(), view, thinking) for name, view in views.items() if view not in had}


def view_named(name: str) -> View:
    if name.startswith(FIELD):
        return Field(name.removeprefix(FIELD))
    if name not in VIEWS:
        raise UserError(f"--views: there is no view {name!r}{nearest(name, [*VIEWS, FIELD + 'NAME'])}")
    return VIEWS[name]
