"""What every probe looks at: graded rollouts of the untrained student, and what each view's teacher makes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from selfteach.errors import UserError
from selfteach.objective.statistics import Statistics
from selfteach.policy.sampler import Sampling
from selfteach.recipes.checks import nearest
from selfteach.recipes.writer import Student
from selfteach.roles.attempt import Evidence, Revision
from selfteach.roles.private import Field, Partial
from selfteach.roles.role import Role
from selfteach.roles.sibling import Reprompt
from selfteach.roles.view import Answer, Plain, Solution, View
from selfteach.roles.weights import External, Live
from selfteach.task.trajectory import Trajectory
from selfteach.train.config import TrainConfig
from selfteach.train.context import Context, context
from selfteach.train.progress import Progress
from selfteach.train.run import Run
from selfteach.train.scored import Scorer

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
MICRO_BATCH = 16


@dataclass(frozen=True)
class Scene:
    """``rollouts`` [N] of one step, graded; ``teachers`` by name with their ``contexts``; ``scorer`` asks them all."""

    run: Run
    rollouts: list[Trajectory]
    teachers: Mapping[str, Role]
    contexts: Mapping[str, Context]
    scorer: Scorer

    @property
    def groups(self) -> list[int]:
        return [one.group for one in self.rollouts]

    @property
    def correct(self) -> list[bool]:
        return [one.grade is not None and one.grade.correct for one in self.rollouts]

    @property
    def sampling(self) -> Sampling:
        drawn = self.run.recipe.rollouts
        return Sampling(drawn.max_tokens, drawn.temperature, drawn.top_p, drawn.top_k)

    @property
    def batch_size(self) -> int:
        """Answers sampled at once."""
        return self.run.config.bookkeeping.sample_batch or 512

    def statistics(self, temperature: float, teachers: Collection[str]) -> Statistics:
        """The rollouts' columns with these teachers, as a recipe reads them at step 0."""
        return Statistics(
            self.scorer.columns,
            step=0,
            temperature=temperature,
            roles=list(teachers),
            measure=self.scorer.measure,
        )

    def shown(self, name: str) -> str:
        """A teacher's name and what it sees: ``teacher (solution)``; a view asked for by name is its own name."""
        return f"{name} ({self.teachers[name].view.name})" if name in self.run.recipe.teachers else name


def set_scene(config: TrainConfig, views: Sequence[str], progress: Progress) -> Scene:
    """Load the run's model and task, sample and grade one step's rollouts, and render every teacher's view of them.

    Of a recipe in stages the first is looked at. ``views`` adds teachers of the student's own weights to the
    recipe's. Raises UserError for a recipe that begins on text of others, for an unknown view, and where a recipe's
    teacher sees too little (as in training).
    """
    small = config.bookkeeping.micro_batch or MICRO_BATCH
    run = Run(replace(config, bookkeeping=replace(config.bookkeeping, micro_batch=small)), None, progress)
    recipe = run.recipe
    if not isinstance(recipe.writer, Student):
        raise UserError(
            f"recipe {config.recipe_name} begins on text the student did not write: a probe looks at its own rollouts"
        )
    extra = viewed(views, recipe.teachers)
    progress.say(f"sampling {recipe.optimization.prompts * recipe.rollouts.per_prompt} rollouts")
    rollouts = run.judged(run.write(recipe.optimization.prompts).rollouts)
    contexts = {
        **run.contexts(rollouts),
        **{name: rendered(run, extra[name], rollouts) for name in extra},
    }
    run.specs |= {name: role.weights for name, role in extra.items()}
    teachers = {**recipe.teachers, **extra}
    return Scene(run, rollouts, teachers, contexts, run.scorer(rollouts, contexts))


def rendered(run: Run, teacher: Role, rollouts: Sequence[Trajectory]) -> Context:
    """What a teacher beside the recipe's reads before each rollout."""
    window, temperature = run.policy.window, run.recipe.rollouts.temperature
    return context(teacher, run.weights, rollouts, run.task.wording, window=window, temperature=temperature)


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
