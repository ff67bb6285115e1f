"""Stages that several methods begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.policy.chat_server import ChatServer
from selfteach.recipes.base import TEACHER, Recipe
from selfteach.recipes.text_teacher import TextTeacher, answered_by
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import External
from selfteach.settings import settings
from selfteach.task.trajectory import Trajectory


@settings
class Imitate(Recipe):
    """Imitate given text: L = mean over tokens of −log p(y_t), y a teacher's answers or the data's."""

    title = "Supervised fine-tuning"
    formula = "mean_t −log p(y_t)"
    plays = True

    teacher: str = ""
    """The model that writes: a folder, a hub id or arena:NAME (empty: the data's own text)."""
    reference: str = "solution"
    """Without a teacher, the private field that is imitated."""
    black_box: TextTeacher = TextTeacher()

    @property
    def servers(self) -> Sequence[ChatServer]:
        return self.black_box.servers(self.teacher)

    @property
    def writers(self) -> Mapping[str, Role]:
        if not self.teacher or self.servers:
            return {}
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    @property
    def temperature(self) -> float:
        return 1.0  # whatever the temperature at which a teacher writes

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.servers:
            r, (server,) = self.rollouts, self.servers
            return answered_by(server, tools, prompts, r.per_prompt, r.max_tokens, r.temperature)
        return imitated(tools, prompts, self.teacher, self.reference, self.rollouts.per_prompt)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over="tokens")


def imitated(
    tools: Tools, prompts: Sequence[Prompt], teacher: str, reference: str, each: int = 1
) -> list[Trajectory]:
    """``each`` answers of role "teacher" to each prompt, if one is named; else the data's text in ``reference``."""
    return tools.play(prompts, each, role=TEACHER) if teacher else tools.quote(prompts, reference)
