"""The examiner of self-play: what is asked of it, what its text is read as, and the stage that trains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from selfteach.checks import require
from selfteach.objective.advantage import group_mean
from selfteach.objective.batch import STUDENT
from selfteach.objective.sampled import k3
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import PolicyGradient, Sampled, Term
from selfteach.recipes.base import REFERENCE, Recipe
from selfteach.recipes.parts import PREVIOUS, TrainedWeights
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Plain
from selfteach.roles.weights import Live, Snapshot
from selfteach.settings import NonNegativeFloat, PositiveFloat, PositiveInt, settings
from selfteach.task.example import Grade
from selfteach.task.self_play import asks_for, hops_of, posed_by
from selfteach.task.trajectory import Trajectory

EXAMINER, SOLVER, FIRST = "examiner", "solver", "examine-1"
"""The examiner's weights, who answers it, and the stage that a method's first round begins with."""


@settings
class Examine(Recipe):
    """A round's first half: reward the examiner π_E for problems that some of the student's answers solve, not all.

    With k of n answers right, r = 1[0 < k < n] (n − k)/(n − 1) + r_f, and 0 for a text that poses no problem; A is r
    less its mean over the step's texts of equally many hops, divided by √(variance + δ):

        L = mean over texts of Σ_t ( −A log π_E(y_t) + kl · k3(π_E, π_ref) )
    """

    title = "Policy gradient of the examiner, advantages by hops"
    source = "https://arxiv.org/abs/2604.14054"
    formula = "mean_y Σ_t −A_hop log π_E(y_t) + β k3(π_E, ref)"
    self_play = True
    sizes = {**Recipe.sizes, "question_tokens": "tokens"}
    numbers = {"hops": "row"}

    question_tokens: PositiveInt = 512
    """Longest text of the examiner, in tokens."""
    format_reward: NonNegativeFloat = 0.5
    """r_f, earned by a text that poses a problem."""
    hop_eps: PositiveFloat = 1e-4
    """δ beside the variance of rewards of equally many hops."""
    kl: NonNegativeFloat = 0.0
    """Coefficient of the KL to the weights before the first round."""

    @property
    def student(self) -> Role:
        return Role(Live(EXAMINER), Plain(), self.student_thinking)

    @property
    def teachers(self) -> Mapping[str, Role]:
        return before_play(self.student_thinking) if self.kl else {}

    @property
    def writers(self) -> Mapping[str, Role]:
        return {SOLVER: Role(Live(), Plain(), self.student_thinking)}

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        return {EXAMINER: TrainedWeights(PREVIOUS, self.optimization, self.adapter)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        texts, n = examined(tools, prompts, STUDENT, self.question_tokens), self.rollouts.per_prompt
        posed = {i: asked for i, one in enumerate(texts) if (asked := problem_of(tools, one)) is not None}
        answers = tools.grade(tools.sample(list(posed.values()), n, role=SOLVER))
        right = {i: sum(one.right for one in answers[j * n : (j + 1) * n]) for j, i in enumerate(posed)}
        return [self.graded(one, right.get(i), n) for i, one in enumerate(texts)]

    def graded(self, one: Trajectory, right: int | None, n: int) -> Trajectory:
        """A text with its reward; ``right`` of the ``n`` answers solved its problem (None: it poses none)."""
        if right is None:
            return one.graded(Grade(0.0, numbers={"posed": 0.0}))
        numbers = {"posed": 1.0, "solved": right / n, "difficulty": difficulty(right, n)}
        return one.graded(Grade(numbers["difficulty"] + self.format_reward, numbers=numbers))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        texts = max(1.0, float(stats.rows.sum()))
        advantage = by_hops(stats.reward, stats.number("hops"), self.hop_eps)
        yield PolicyGradient(name="policy", advantage=advantage, mean_over=texts)
        if self.kl:
            yield Sampled(
                name="kl", target=FromRole(REFERENCE), function=k3, coefficient=self.kl, mean_over=texts
            )


def before_play(thinking: bool | None) -> dict[str, Role]:
    """Both policies before the first round, when they are the same, as a role."""
    return {REFERENCE: Role(Snapshot(FIRST, "start"), Plain(), thinking, signal="sampled")}


def difficulty(right: int, n: int) -> float:
    """r_d of a problem that ``right`` of ``n`` answers solve: 1 for one, down to 0 in a line for all, 0 for none."""
    return (n - right) / (n - 1) if 0 < right < n else 0.0


def by_hops(reward: Float[Tensor, "N"], hops: Float[Tensor, "N"], delta: float) -> Float[Tensor, "N"]:
    """[N] (r − mean) / √(variance + δ) over the rows of equally many hops (Dr. Zero), population variance."""
    group = hops.long()
    centered = reward - group_mean(reward, group)
    return centered / (group_mean(centered.square(), group) + delta).sqrt()


def examined(tools: Tools, prompts: Sequence[Prompt], role: str, tokens: int) -> list[Trajectory]:
    """What ``role`` writes, at most ``tokens`` long, when it is asked for a problem in each prompt's stead; kinds are
    asked for in turn, and the number ``hops`` says which. UserError if the request leaves no room."""
    kinds = hops_of(tools.task)
    hops = [kinds[one.group % len(kinds)] for one in prompts]
    wanted = [
        replace(one, example=asks_for(tools.task, kind)) for one, kind in zip(prompts, hops, strict=True)
    ]
    asked = [one for each in wanted if (one := tools.prompt(each, Plain(), tokens)) is not None]
    require(len(asked) == len(prompts), "the examiner has no room to write in: lower question_tokens")
    written = tools.sample(asked, role=role, max_tokens=tokens) if asked else []
    return [one.with_numbers(hops=float(kind)) for one, kind in zip(written, hops, strict=True)]


def problem_of(tools: Tools, text: Trajectory) -> Prompt | None:
    """The problem that an examiner's text poses, as a prompt; None if it poses none, or one that leaves no room."""
    kinds = hops_of(tools.task)
    example = posed_by(tools.task, text.text, kinds[text.group % len(kinds)])
    return None if example is None else tools.prompt(Prompt(example, [], text.group), Plain())
