"""A stage that makes a teacher of the student's own base: reinforcement with the privilege in view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import Term
from selfteach.recipes.base import TEACHER, Recipe
from selfteach.recipes.parts import GRPOSettings
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Solution, View
from selfteach.roles.weights import Live
from selfteach.settings import settings
from selfteach.task.trajectory import Trajectory


@settings
class InformedGRPO(Recipe):
    """GRPO whose answers are written, and trained, behind what ``view`` shows (Many Faces): a policy for those who see
    it, to be distilled into one that does not."""

    title = "GRPO of the privileged teacher"
    source = "https://arxiv.org/abs/2605.11182"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ),  y ~ π(·|x, z)"

    grpo: GRPOSettings = GRPOSettings()
    view: View = Solution()
    """What the answers are written behind."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(Live(), self.view, self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.sample(prompts, self.rollouts.per_prompt, role=TEACHER)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield self.grpo.term("policy", stats, role=TEACHER, mean_over="sequences")
