"""What a teacher may know, as settings; and a stage that makes one of the student's own base, the privilege in view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.checks import require
from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import Term
from selfteach.recipes.base import TEACHER, Recipe
from selfteach.recipes.parts import GRPOSettings
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.privilege import Privilege, privilege
from selfteach.roles.role import Role
from selfteach.roles.view import Solution, View
from selfteach.roles.weights import Live
from selfteach.settings import UnitInterval, settings
from selfteach.task.trajectory import Trajectory


@settings
class Shown:
    """What a teacher may know, by the names that Many Faces has for it."""

    privilege: Privilege = "rule"
    """What the teacher is shown: the private field ``rule``, the text of --constitution, the solution, the answer, the
    solution with gaps, or answer or solution in a closed thought that its turn begins with."""
    place: Literal["system", "user"] = "system"
    """Where a rule or constitution stands: before the system prompt, or with the question."""
    constitution: str = ""
    """The text that privilege "constitution" shows, one for all examples."""
    gaps: UnitInterval = 0.5
    """How many words of a "masked" solution are left out (paper: half of its tokens)."""

    def __post_init__(self) -> None:
        require(
            self.privilege != "constitution" or bool(self.constitution),
            "constitution is empty: give its text",
        )

    @property
    def view(self) -> View:
        """The view of that privilege."""
        return privilege(self.privilege, self.place, self.constitution, self.gaps)


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
