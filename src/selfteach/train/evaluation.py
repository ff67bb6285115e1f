"""Held-out accuracy, with its standard error, and before/after answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.sampler import GenerateSampler, Sampling
from selfteach.roles.view import Plain, View
from selfteach.task.example import Example, Grade, Message, Task
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Answered:
    """One sampled answer to a held-out problem."""

    example: Example
    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool
    grade: Grade


@dataclass(frozen=True)
class Result:
    """``accuracy``: mean over problems of the mean over their samples; ``accuracy_se``: standard error of that mean
    over problems; ``pass_at_k``: share of problems with any right answer; ``length``: mean tokens an answer."""

    accuracy: float
    accuracy_se: float
    pass_at_k: float
    k: int
    length: float
    finished: float
    problems: int

    def row(self, place: str = "eval") -> dict[str, float]:
        return {
            f"{place}/accuracy": self.accuracy,
            f"{place}/accuracy_se": self.accuracy_se,
            f"{place}/pass@{self.k}": self.pass_at_k,
            f"{place}/length": self.length,
            f"{place}/finished": self.finished,
            f"{place}/problems": self.problems,
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
) -> tuple[Result, list[Answered]]:
    """Sample ``samples`` answers to each of ``problems`` held-out problems and grade them.

    Draws from a generator state of its own and puts the caller's back, so that evaluating does not change a run.
    ``view``: answer under what a teacher would be shown (to measure what a privilege is worth).
    """
    examples = task.held_out(problems)
    view = view or Plain()
    shown = [policy.renderer.prompt_ids(seen(one, view, task.wording), thinking) for one in examples]
    asked = [(one, ids) for one, ids in zip(examples, shown, strict=True) for _ in range(samples)]
    devices = [policy.model.device] if policy.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        prompts = [ids for _, ids in asked]
        written = GenerateSampler(policy).sample(prompts, sampling, batch_size=batch_size)
    answers = []
    for (example, ids), one in zip(asked, written, strict=True):
        text = policy.renderer.text(one.ids)
        answers.append(Answered(example, ids, one.ids, text, one.finished, task.grade(example, text)))
    return result(answers, samples), answers


def seen(example: Example, view: View, wording: Mapping[str, str]) -> Sequence[Message]:
    """What ``view`` shows of an example before anybody has answered it."""
    blank = Trajectory.written(example, [], [], "", group=0, finished=False)
    messages = view(blank, [blank], wording)
    if messages is None:
        raise UserError(
            f"view {view.name} has nothing to show of example {example.key}: choose another --view"
        )
    return messages


def result(answers: Sequence[Answered], samples: int) -> Result:
    """Summarize answers that stand ``samples`` a problem, in order."""
    rewards = [answer.grade.reward for answer in answers]
    means = [sum(rewards[i : i + samples]) / samples for i in range(0, len(rewards), samples)]
    solved = [any(r >= 0.5 for r in rewards[i : i + samples]) for i in range(0, len(rewards), samples)]
    n = len(means)
    mean = sum(means) / n
    variance = sum((m - mean) ** 2 for m in means) / max(1, n - 1)
    return Result(
        accuracy=mean,
        accuracy_se=math.sqrt(variance / n),
        pass_at_k=sum(solved) / n,
        k=samples,
        length=sum(len(answer.ids) for answer in answers) / len(answers),
        finished=sum(answer.finished for answer in answers) / len(answers),
        problems=n,
    )
