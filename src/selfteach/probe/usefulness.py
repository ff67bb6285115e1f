"""Teacher utility: what each view is worth, and how far it stands from the student, before a run is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.policy.sampler import LocalSampler
from selfteach.probe.finding import Cell, Finding, Table
from selfteach.probe.interval import mean_interval, share_interval
from selfteach.probe.scene import Scene
from selfteach.roles.weights import Live
from selfteach.settings import settings

BASE = "plain"


@settings
class Knobs:
    """Which views are compared."""

    views: tuple[str, ...] = ("solution", "partial", "answer", "evidence", "sibling", "feedback")
    """Views to compare, beside the recipe's own teachers and the bare problem; further ones: revision, field:NAME."""


@dataclass(frozen=True)
class Answers:
    """A teacher's own answers: ``success`` [N] 1 or 0, NaN where it could see nothing; ``length`` [N] tokens."""

    success: np.ndarray
    length: np.ndarray


def probe(scene: Scene, knobs: Knobs) -> Finding:
    """Let the model answer every prompt under every view, and score the student's own rollouts under each.

    The bare problem is answered afresh: a view that is shown only after a wrong rollout would otherwise be compared
    with an answer chosen for being wrong.
    """
    prompts: list[list[int] | None] = [one.prompt_ids for one in scene.rollouts]
    scene.learner.progress.say(f"answering {len(prompts)} prompts under {len(scene.teachers) + 1} views")
    bare = answers(scene, None, prompts)
    under = {name: answers(scene, name, scene.contexts[name].prompts) for name in scene.teachers}
    groups = np.array(scene.groups)
    worth = [{"view": BASE, **worth_of(bare, bare, groups)}]
    worth += [{"view": scene.shown(name), **worth_of(own, bare, groups)} for name, own in under.items()]
    distance = [{"view": scene.shown(name), **distance_of(scene, name, groups)} for name in scene.teachers]
    rows = [
        {
            "prompt": one.group,
            "key": one.example.key,
            "rollout": scene.correct[i],
            "success": {
                BASE: bare.success[i],
                **{scene.shown(k): own.success[i] for k, own in under.items()},
            },
        }
        for i, one in enumerate(scene.rollouts)
    ]
    about: dict[str, Cell] = {"rollouts": len(scene.rollouts), "right rollouts": sum(scene.correct)}
    return Finding(
        "views", "Teacher utility by view", about, [worth_table(worth), distance_table(distance)], rows
    )


def answers(scene: Scene, teacher: str | None, prompts: Sequence[list[int] | None]) -> Answers:
    """One answer to each prompt that is there, with the teacher's weights (None: the student's), graded."""
    success, length = np.full(len(prompts), np.nan), np.full(len(prompts), np.nan)
    places = [i for i, ids in enumerate(prompts) if ids is not None]
    asked = [ids for ids in prompts if ids is not None]
    if not asked:
        return Answers(success, length)
    spec = Live() if teacher is None else scene.teachers[teacher].weights
    with scene.learner.models.weights.scoring(spec) as policy:
        written = LocalSampler(policy).sample(asked, scene.sampling, batch_size=scene.batch_size)
    for i, one in zip(places, written, strict=True):
        grade = scene.learner.task.grade(scene.rollouts[i].example, policy.renderer.text(one.ids))
        success[i], length[i] = float(grade.correct), len(one.ids)
    return Answers(success, length)


def worth_of(own: Answers, bare: Answers, groups: np.ndarray) -> dict[str, Cell]:
    seen = ~np.isnan(own.success)
    return {
        "can see": float(seen.mean()),
        "accuracy": share_interval(own.success[seen], groups[seen]),
        "plain, same rows": share_interval(bare.success[seen], groups[seen]),
        "gain": None
        if own is bare
        else mean_interval(own.success - bare.success, groups, bounds=(-1.0, 1.0)),
        "answer length": mean_interval(own.length, groups),
    }


def distance_of(scene: Scene, name: str, groups: np.ndarray) -> dict[str, Cell]:
    """Nats a token between student and teacher on the student's own rollouts: each rollout's mean over its tokens."""
    stats = scene.statistics(scene.recipe.temperature, scene.teachers)
    seen = stats.available(name).cpu().numpy()
    correct = np.array(scene.correct)

    def rollout_means(column: Float[Tensor, "N T"]) -> np.ndarray:
        sums = torch.where(stats.mask, column, 0.0).sum(1)
        return (sums / stats.length.clamp(min=1)).cpu().double().numpy()

    forward = rollout_means(stats.divergence(name, ForwardKL()))
    reverse = rollout_means(stats.divergence(name, ReverseKL()))
    prompts = scene.contexts[name].prompts
    extra = [
        len(ids) - len(one.prompt_ids)
        for ids, one in zip(prompts, scene.rollouts, strict=True)
        if ids is not None
    ]
    return {
        "KL(teacher‖student)": mean_interval(forward[seen], groups[seen]),
        "KL(student‖teacher)": mean_interval(reverse[seen], groups[seen]),
        "… on right rollouts": mean_interval(reverse[seen & correct], groups[seen & correct]),
        "… on wrong rollouts": mean_interval(reverse[seen & ~correct], groups[seen & ~correct]),
        "extra prompt tokens": mean_interval(extra, groups[seen]),
    }


def worth_table(rows: Sequence[dict[str, Cell]]) -> Table:
    note = (
        "Share of right answers when the model itself answers under each view, sampled as the recipe samples. Gain: "
        "over the bare problem, paired by prompt. 95 % bootstrap interval over prompts."
    )
    return Table("What a view is worth", note, rows)


def distance_table(rows: Sequence[dict[str, Cell]]) -> Table:
    note = "Nats a token on the student's own rollouts before training, at the recipe's temperature."
    return Table("How far it stands from the student", note, rows)
