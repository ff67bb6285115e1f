"""Held-out accuracy, with its standard error, and before/after answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, bare
from selfteach.policy.renderer import Renderer
from selfteach.policy.sampler import LocalSampler, Watch
from selfteach.policy.sharding import whole
from selfteach.recipes.parts import Rollouts
from selfteach.roles.view import Plain, View
from selfteach.task.environment import environment_of, limit_of
from selfteach.task.example import Example, Grade, Message, Task
from selfteach.task.grading import grades
from selfteach.task.segment import STUDENT, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import gather_rows, processes
from selfteach.training.text.estimates import number_scores
from selfteach.training.text.playing import Player, has_room
from selfteach.training.text.turns import Turn, turns_by_row
from selfteach.training.text.written import own_ids

if TYPE_CHECKING:
    from selfteach.training.text.learner import TextLearner

HEADLINE = "held-out accuracy"
"""What ``eval/headline`` is where text is trained."""


@dataclass(frozen=True)
class Answered:
    """One sampled answer to a held-out problem; ``turns``: those of an episode."""

    example: Example
    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool
    grade: Grade
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class EvaluationResult:
    """``accuracy``: mean over problems of the mean over their samples; ``accuracy_se``: standard error of that mean
    over problems; ``pass_at_k``: share of problems with any right answer; ``length``: mean tokens an answer;
    ``numbers``: means over problems of what grades measured beside the reward (``number_scores``)."""

    accuracy: float
    accuracy_se: float
    pass_at_k: float
    k: int
    length: float
    finished: float
    problems: int
    numbers: Mapping[str, float] = field(default_factory=dict)

    def headline(self) -> dict[str, float]:
        """The one number that comparisons, alarms and the report follow."""
        return {"eval/headline": self.accuracy, "eval/headline_se": self.accuracy_se}

    def row(self, place: str = "eval") -> dict[str, float]:
        return {
            f"{place}/accuracy": self.accuracy,
            f"{place}/accuracy_se": self.accuracy_se,
            f"{place}/pass@{self.k}": self.pass_at_k,
            f"{place}/length": self.length,
            f"{place}/finished": self.finished,
            f"{place}/problems": self.problems,
            **{f"{place}/{name}": value for name, value in self.numbers.items()},
        }


def evaluate(
    policy: Policy,
    task: Task,
    *,
    problems: int,
    samples: int,
    sampling: Sampling,
    thinking: bool | None = None,
    view: View | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    watch: Watch | None = None,
    examples: Sequence[Example] | None = None,
    max_turns: int = Rollouts().max_turns,
) -> tuple[EvaluationResult, list[Answered]]:
    """Sample ``samples`` answers to each of ``problems`` held-out problems (all, if the task has fewer) and grade them.

    The problems are shared out over the processes; each returns the whole result, which is what one process would
    get: an answer's random numbers follow from ``seed``, its problem and its number, and from nothing of the run's.
    ``view``: answer under what a teacher would be shown (to measure what a privilege is worth). ``batch_size`` answers
    are sampled at once (None: as many as there is memory for); ``watch`` is told the share that is done. ``examples``:
    asked in the place of held-out ones. Where the task is an environment an answer is a whole episode of at most
    ``max_turns`` turns, its length that of what the policy wrote. UserError if there is no held-out problem.
    """
    if examples is None:
        examples = task.held_out(problems)
    if not examples:
        raise UserError(
            f"task {task.name} has no held-out problem to be measured on ({problems} were asked for)"
        )
    rank, world = processes()
    asked = [
        (number, one, policy.renderer.prompt_ids(seen(one, view or Plain(), task.wording), thinking))
        for number, one in enumerate(examples)
        if number % world == rank
    ]
    wanted = [
        Asked(n, one, ids, f"{seed} eval {one.key} {k}") for n, one, ids in asked for k in range(samples)
    ]
    sampler = LocalSampler(policy, watch)
    with whole(bare(policy.model)):  # processes may have more or fewer turns than others
        if environment_of(task) is None:
            answered = answers_to(wanted, sampler, task, sampling, batch_size)
        else:
            played = play_asked(wanted, sampler, task, sampling, batch_size, thinking, max_turns)
            answered = [episode_of(*both, policy.renderer) for both in zip(wanted, played, strict=True)]
    answers = [one for _, one in sorted(gather_rows(answered), key=lambda each: each[0])]
    return result(answers, samples), answers


@dataclass(frozen=True)
class Asked:
    """A held-out problem by its ``number``, to be answered once; ``key``: what the random numbers follow from."""

    number: int
    example: Example
    prompt_ids: list[int]
    key: str


def answers_to(
    asked: Sequence[Asked],
    sampler: LocalSampler,
    task: Task,
    sampling: Sampling,
    batch_size: int | None,
) -> list[tuple[int, Answered]]:
    """(number of the problem, one graded answer) for each that is asked."""
    prompts, keys = [one.prompt_ids for one in asked], [one.key for one in asked]
    written = sampler.sample(prompts, sampling, keys=keys, batch_size=batch_size)
    texts = [sampler.policy.renderer.text(one.ids) for one in written]
    graded = grades(task, ((one.example, text) for one, text in zip(asked, texts, strict=True)))
    return [
        (one.number, Answered(one.example, one.prompt_ids, new.ids, text, new.finished, grade))
        for one, new, text, grade in zip(asked, written, texts, graded, strict=True)
    ]


def episode_of(asked: Asked, played: Trajectory, renderer: Renderer) -> tuple[int, Answered]:
    """(number of the problem, its graded episode)."""
    assert played.grade is not None
    (turns,) = turns_by_row([played], renderer)
    return asked.number, Answered(
        asked.example, asked.prompt_ids, own_ids(played), played.text, played.finished, played.grade, turns
    )


def play_asked(
    asked: Sequence[Asked],
    sampler: LocalSampler,
    task: Task,
    sampling: Sampling,
    batch_size: int | None,
    thinking: bool | None,
    max_turns: int,
) -> list[Trajectory]:
    """An episode of each, graded."""
    policy, make = sampler.policy, environment_of(task)
    assert make is not None
    # Groups are the asked ones' places: so each trajectory knows its key.
    begun = [
        Trajectory(one.example, one.prompt_ids, (), "", i, False, temperature=sampling.temperature)
        for i, one in enumerate(asked)
    ]

    def write(waiting: Sequence[Trajectory], turn: int) -> list[Trajectory]:
        contexts = [one.next_context for one in waiting]
        keys = [f"{asked[one.group].key} turn {turn}" for one in waiting]
        written = sampler.sample(contexts, sampling, keys=keys, batch_size=batch_size)
        return [
            one.extended(
                Segment(new.ids, STUDENT, behavior=new.behavior, turn=one.next_turn),
                "",
                finished=new.finished,
            )
            for one, new in zip(waiting, written, strict=True)
        ]

    room = partial(has_room, window=policy.window, longest=sampling.max_tokens)
    player = Player(make, policy.renderer, thinking, write, room, limit_of(task))
    return player.play(begun, max_turns)


def examined(learner: TextLearner) -> tuple[dict[str, float], list[Answered]]:
    """(held-out numbers of the run's task and of those beside it, the answers to its task)."""
    result, answers = answered(learner, learner.task)
    numbers = {**result.headline(), **result.row()}
    for task in learner.also:
        numbers |= answered(learner, task)[0].row(f"eval/{task.name}")
    return numbers, answers


def answered(
    learner: TextLearner, task: Task, examples: Sequence[Example] | None = None
) -> tuple[EvaluationResult, list[Answered]]:
    """A task's held-out problems, or these ``examples``, asked by the run's settings of evaluation."""
    settings, recipe = learner.config.evaluation, learner.recipe
    longest = settings.eval_max_tokens or recipe.rollouts.max_tokens
    if examples is None:
        examples = learner.held_out(task, settings.eval_problems)
    return evaluate(
        learner.policy,
        task,
        problems=settings.eval_problems,
        samples=settings.eval_samples,
        sampling=Sampling(longest, settings.eval_temperature, settings.eval_top_p, settings.eval_top_k),
        thinking=recipe.student_thinking if settings.eval_thinking is None else settings.eval_thinking,
        batch_size=learner.config.bookkeeping.sample_batch,
        seed=learner.config.seed,
        watch=partial(learner.progress.working, f"evaluating on {task.name}"),
        examples=examples,
        max_turns=recipe.rollouts.max_turns,
    )


def seen(example: Example, view: View, wording: Mapping[str, str]) -> Sequence[Message]:
    """What ``view`` shows of an example before anybody has answered it."""
    blank = Trajectory.written(example, [], [], "", group=0, finished=False)
    messages = view(blank, [blank], wording)
    if messages is None:
        raise UserError(
            f"view {view.name} has nothing to show of example {example.key}: choose another --view"
        )
    return messages


def result(answers: Sequence[Answered], samples: int) -> EvaluationResult:
    """Summarize answers that stand ``samples`` a problem, in order."""
    rewards = [answer.grade.reward for answer in answers]
    means = [sum(rewards[i : i + samples]) / samples for i in range(0, len(rewards), samples)]
    right = [answer.grade.correct for answer in answers]
    solved = [any(right[i : i + samples]) for i in range(0, len(right), samples)]
    n = len(means)
    mean = sum(means) / n
    variance = sum((m - mean) ** 2 for m in means) / max(1, n - 1)
    return EvaluationResult(
        accuracy=mean,
        accuracy_se=math.sqrt(variance / n),
        pass_at_k=sum(solved) / n,
        k=samples,
        length=sum(len(answer.ids) for answer in answers) / len(answers),
        finished=sum(answer.finished for answer in answers) / len(answers),
        problems=n,
        numbers={name: sum(scores) / len(scores) for name, scores in number_scores(answers, samples).items()},
    )
