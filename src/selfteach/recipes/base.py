"""What every recipe declares: who writes, who scores, what is summed, and the paper's settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import ClassVar, Literal

from selfteach.control.controller import ControllerSpec
from selfteach.control.hook import HookSpec
from selfteach.objective.batch import STUDENT
from selfteach.objective.minibatch import Minibatch, passes
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import Term
from selfteach.policy.chat_server import ChatServer
from selfteach.recipes.method import Method
from selfteach.recipes.parts import (
    PREVIOUS,
    Adapter,
    Optimization,
    PerRecord,
    ReferenceProbe,
    Rollouts,
    TrainedWeights,
)
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import POLICY, Live
from selfteach.settings import settings
from selfteach.task.trajectory import Trajectory

Size = Literal["tokens", "group", "prompts", "steps", "schedule", "stored"]
"""What a knob counts that says how much is done, not how: tokens of an answer, answers of a prompt, prompts of a step,
steps, a number of steps within them, prompts answered once. Preset "auto" lowers these, and no others."""
TEACHER, REFERENCE = "teacher", "reference"
"""What a recipe's only teacher is called, and the weights that it must not stray from."""


@settings
class Recipe(Method, ABC):
    """A method that trains a writer of tokens: data plus ``terms``. It never touches a model, a tokenizer, a device or
    a file. Of its presets one called "arena" is taken in the arena's worlds."""

    sizes: ClassVar[Mapping[str, Size]] = {
        "max_tokens": "tokens", "per_prompt": "group", "prompts": "prompts", "steps": "steps", "warmup": "schedule",
        "stored": "stored",
    }  # fmt: skip
    """The knobs that count how much is done, by what they count."""
    numbers: ClassVar[Mapping[str, Literal["row", "token"]]] = {}
    """The numbers that its terms read and its rollout writes down (``Trajectory.with_numbers``): one a row, or one a
    token."""
    marks: ClassVar[tuple[str, ...]] = ()
    """The marks on tokens that its terms read and its rollout sets."""
    plays: ClassVar[bool] = False
    """Whether the rollout of this very class writes episodes where the task is an environment (``Tools.play``)."""
    self_play: ClassVar[bool] = False
    """Whether a policy poses its problems: the task must be one that says how (``task.self_play``)."""
    annotated: ClassVar[bool] = False
    """Whether the task's annotator marks each rollout: then there are the marks "key" and "error" (TRACE)."""

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization()
    adapter: Adapter = Adapter()
    student_thinking: bool | None = None
    """Thinking flag of the student's chat template (none: the template's own default)."""

    @property
    def generates(self) -> bool:
        """Whether answers are written, by the student or a teacher, so that a token budget can end the run."""
        return True

    @property
    def teachers(self) -> Mapping[str, Role]:
        """Who scores the rollouts beside the student, by name. A single one is called ``teacher``."""
        return {}

    @property
    def writers(self) -> Mapping[str, Role]:
        """Who writes or is asked in ``rollout`` alone: judges, critics, authors of text to imitate."""
        return {}

    @property
    def servers(self) -> Sequence[ChatServer]:
        """The servers that its settings name (``ChatServer`` under ``server``): preflight asks whether they answer."""
        parts = (getattr(getattr(self, one.name), "server", None) for one in fields(self))
        return [one for one in parts if isinstance(one, ChatServer)]

    @property
    def student(self) -> Role:
        """Whose weights under which view write by default and are trained by default."""
        return Role(Live(), Plain(), self.student_thinking)

    @property
    def roles(self) -> Mapping[str, Role]:
        """Everybody by name: weights × view. A role is trained if and only if a term says so (``Term.role``)."""
        return {STUDENT: self.student, **self.others}

    @property
    def others(self) -> Mapping[str, Role]:
        """Everybody beside the student."""
        return {**self.teachers, **self.writers}

    def active(self, step: int) -> Collection[str]:
        """The teachers that score at ``step`` (from 0, within the stage). The others cost nothing."""
        return tuple(self.teachers)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Write the trajectories of a step: by default so many answers of the student to each prompt, whole episodes
        where the task is an environment."""
        return tools.play(prompts, self.rollouts.per_prompt)

    @property
    def is_for_episodes(self) -> bool:
        """Whether it can be trained in an environment of several turns."""
        writes = next(kind for kind in type(self).__mro__ if "rollout" in vars(kind))
        return writes is Recipe or vars(writes).get("plays", False)

    def updates(self, step: int) -> Sequence[Minibatch]:
        """The optimizer steps on one batch, in turn."""
        return passes(self.optimization.update_epochs, self.optimization.minibatches, tuple(self.trained))

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        """The weights that this stage trains, by name."""
        return {POLICY: TrainedWeights(PREVIOUS, self.optimization, self.adapter)}

    @property
    def store(self) -> str | None:
        """The store that ``rollouts.stored`` answers are kept in (None: one of the stage's own name); stages that name
        the same one share it."""
        return None

    @property
    def hook(self) -> HookSpec | None:
        """What looks at the weights after each optimizer step, and may set them (None: nothing)."""
        return None

    @property
    def per_record(self) -> PerRecord | None:
        """Clip and noise the gradient of each record by itself (None: an ordinary gradient)."""
        return None

    @property
    def stages(self) -> Mapping[str, Recipe]:
        """The trainings in a row that make up the method, by name; the last is the recipe itself."""
        return {"train": self}

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        """Knobs that are found while the run goes on: flat knob name → what finds it."""
        return {}

    @property
    def reference_probe(self) -> ReferenceProbe | None:
        """Private text whose likelihood is measured at every step (None: nothing)."""
        return None

    @property
    def temperature(self) -> float:
        """The temperature at which statistics and, by default, terms read log-probs."""
        return self.rollouts.temperature

    @abstractmethod
    def terms(self, stats: Statistics) -> Iterable[Term]:
        """The summands of the loss, weights fixed. A term that names no temperature has the recipe's."""

    def summands(self, stats: Statistics) -> list[Term]:
        """The terms, each with its temperature: what is planned and summed."""
        return [term.tempered(self.temperature) for term in self.terms(stats)]
