"""Who writes a step's tokens: the student, the data, a teacher, two contexts in turn, or a draft and its revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.mixture import decode_mixture
from selfteach.policy.sampler import GenerateSampler, Sampling
from selfteach.recipes.base import Recipe
from selfteach.recipes.writer import ByTeacher, Mixed, Reference, Revised, Student
from selfteach.roles.store import WeightStore
from selfteach.roles.weights import Frozen, Weights
from selfteach.task.example import Task
from selfteach.task.segment import STUDENT
from selfteach.task.trajectory import Trajectory
from selfteach.train.collect import Asked, graded, reference_rollouts, sampled_rollouts
from selfteach.train.context import context, rendered_ids


@dataclass(frozen=True)
class Written:
    """Rollouts, and how many tokens were generated for them, those that were thrown away included."""

    rollouts: list[Trajectory]
    tokens: int


@dataclass(frozen=True)
class Desk:
    """All that writing needs of a run: the student, its roles' weights, the task, and how many answers at a time."""

    policy: Policy
    weights: WeightStore
    task: Task
    recipe: Recipe
    batch_size: int | None = None

    def write(self, asked: Sequence[Asked], first_group: int) -> Written:
        """Answers to the prompts as the recipe's writer makes them; groups are numbered from ``first_group``."""
        writer = self.recipe.writer
        match writer:
            case Student():
                return self.by_student(asked, first_group)
            case Reference():
                rollouts = reference_rollouts(
                    self.policy,
                    asked,
                    writer.field,
                    max_tokens=self.recipe.rollouts.max_tokens,
                    thinking=self.recipe.student_thinking,
                    first_group=first_group,
                )
                return Written(rollouts, 0)
            case ByTeacher():
                return self.by_teacher(writer, asked, first_group)
            case Mixed():
                return self.mixed(writer, asked, first_group)
            case Revised():
                return self.revised(writer, asked, first_group)

    def by_student(self, asked: Sequence[Asked], first_group: int) -> Written:
        rollouts = sampled_rollouts(
            self.policy, asked, self.recipe.rollouts, first_group=first_group, batch_size=self.batch_size
        )
        return Written(rollouts, sum(len(one.ids) for one in rollouts))

    def by_teacher(self, writer: ByTeacher, asked: Sequence[Asked], first_group: int) -> Written:
        """The teacher's own answers under its view, as rows of the student's prompt (no behavior log-probs)."""
        blanks = self.blanks(asked, first_group)
        prompts = self.shown(writer.teacher, blanks)
        with self.weights.scoring(self.spec(writer.teacher)) as policy:
            samples = GenerateSampler(policy).sample(prompts, self.sampling(), batch_size=self.batch_size)
        rollouts = [
            answered(blank, one.ids, self.policy.renderer.text(one.ids), one.finished, writer.teacher)
            for blank, one in zip(blanks, samples, strict=True)
        ]
        kept = [one for one in graded(self.task, rollouts) if right(one)] if writer.verified else rollouts
        return Written(kept, sum(len(one.ids) for one in rollouts))

    def mixed(self, writer: Mixed, asked: Sequence[Asked], first_group: int) -> Written:
        """Mixture decoding by the teacher's weights under two contexts; wrong answers are written anew (card 11)."""
        spec = self.spec(writer.teacher)
        if not isinstance(spec, Frozen):
            raise UserError(
                "writer Mixed decodes with the initial policy: its teacher's weights must be Frozen"
            )
        left = self.blanks(asked, first_group)
        kept, tokens = [], 0
        for _ in range(writer.attempts):
            if not left:
                break
            contexts = [
                [blank.prompt_ids, told]
                for blank, told in zip(left, self.shown(writer.teacher, left), strict=True)
            ]
            with self.weights.scoring(spec) as policy:
                samples = decode_mixture(
                    policy,
                    contexts,
                    (writer.share, 1 - writer.share),
                    temperature=writer.temperature,
                    top_k=writer.top_k,
                    max_tokens=self.recipe.rollouts.max_tokens,
                    batch_size=self.batch_size,
                )
            tokens += sum(len(one.ids) for one in samples)
            tried = graded(
                self.task,
                [
                    replace(
                        answered(
                            blank, one.ids, self.policy.renderer.text(one.ids), one.finished, writer.teacher
                        ),
                        marks={"from_teacher": [pick == 1 for pick in one.picks]},
                    )
                    for blank, one in zip(left, samples, strict=True)
                ],
            )
            kept += [one for one in tried if right(one)]
            left = [blank for blank, one in zip(left, tried, strict=True) if not right(one)]
        return Written(sorted(kept, key=lambda one: one.group), tokens)

    def revised(self, writer: Revised, asked: Sequence[Asked], first_group: int) -> Written:
        """Drafts, each with the phrase that says whether it was right, and its verified revisions (card 10)."""
        drafts = self.by_student(asked, first_group)
        rows, tokens = [], drafts.tokens
        told: list[tuple[Trajectory, list[int]]] = []
        for draft in graded(self.task, drafts.rollouts):
            messages = writer.view(draft, [draft], self.task.wording)
            context_ids = rendered_ids(self.policy.renderer, messages or (), self.recipe.student_thinking)
            room = self.policy.window - len(context_ids)
            if context_ids[: len(draft.prompt_ids)] == draft.prompt_ids and room > self.sampling().max_tokens:
                told += [(draft, context_ids)] * writer.revisions
        samples = GenerateSampler(self.policy).sample(
            [ids for _, ids in told], self.sampling(), batch_size=self.batch_size
        )
        for (draft, context_ids), one in zip(told, samples, strict=True):
            tokens += len(one.ids)
            before = context_ids[len(draft.prompt_ids) :]
            text = self.policy.renderer.text(one.ids)
            if self.task.grade(draft.example, text).correct:
                row = answered(
                    draft, before + one.ids, self.policy.renderer.text(before + one.ids), one.finished
                )
                rows.append(replace(row, marks={"revision": [False] * len(before) + [True] * len(one.ids)}))
        return Written(rows, tokens)

    def blanks(self, asked: Sequence[Asked], first_group: int) -> list[Trajectory]:
        """One empty rollout for each answer wanted: what a view may read before anybody has written."""
        return [
            Trajectory.written(one.example, one.prompt_ids, [], "", group=first_group + i, finished=False)
            for i, one in enumerate(asked)
            for _ in range(self.recipe.rollouts.per_prompt)
        ]

    def shown(self, teacher: str, blanks: Sequence[Trajectory]) -> list[list[int]]:
        """What the teacher reads before it writes. UserError if it has nothing to read."""
        window = self.weights.policy_of(self.spec(teacher)).window - self.recipe.rollouts.max_tokens
        seen = context(self.recipe.teachers[teacher], self.weights, blanks, self.task.wording, window=window)
        for ids, blank in zip(seen.prompts, blanks, strict=True):
            if ids is None:
                raise UserError(
                    f"teacher {teacher!r} cannot write an answer to example {blank.example.key}: its view "
                    f"{self.recipe.teachers[teacher].view.name} has nothing to show, or no room for an answer"
                )
        return [ids or [] for ids in seen.prompts]

    def spec(self, teacher: str) -> Weights:
        return self.recipe.teachers[teacher].weights

    def sampling(self) -> Sampling:
        r = self.recipe.rollouts
        return Sampling(r.max_tokens, r.temperature, r.top_p, r.top_k)


def answered(
    blank: Trajectory, ids: list[int], text: str, finished: bool, author: str = STUDENT
) -> Trajectory:
    """The rollout with these tokens, whose behavior log-probs under the present student nobody knows."""
    return Trajectory.written(
        blank.example, blank.prompt_ids, ids, text, group=blank.group, finished=finished, origin=author
    )


def right(one: Trajectory) -> bool:
    return one.grade is not None and one.grade.correct
