"""Branch viability: does a token the privileged teacher proposes still lead the student to a right answer? (PW-OPSD)

At a position of the student's rollout (the "spine") the teacher's likely tokens that the student did not take are
forced, one at a time, after the student's own prompt; the student goes on alone. Which score foretells success is
measured by AUROC (arXiv 2605.21606).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.objective.divergence import ForwardKL
from selfteach.objective.positions import chunks, positions_of
from selfteach.objective.statistics import entropy
from selfteach.probe.branch import Branch, successes
from selfteach.probe.finding import Cell, Finding, Table
from selfteach.probe.interval import auroc, bootstrap, share_interval
from selfteach.probe.scene import Scene
from selfteach.settings import OpenUnit, PositiveRows, settings

CHUNK = 256
FIFTHS = 5


@settings
class Knobs:
    """Which alternatives are tried, and how often."""

    nodes: PositiveRows = 4
    """Positions tried in each rollout, drawn at random from those where a teacher has an alternative."""
    candidates: PositiveRows = 2
    """Most alternatives tried at a position: the teacher's likeliest tokens beside the one the student took."""
    min_prob: OpenUnit = 0.05
    """An alternative must be this likely to the teacher."""
    completions: PositiveRows = 1
    """The student's completions of each alternative; each is a row of its own."""
    views: tuple[str, ...] = ()
    """Views to try beside the recipe's own teachers, such as plain, partial, answer, sibling, field:NAME."""


@dataclass(frozen=True)
class Alternative:
    """A token that a teacher proposes in place of the student's, and all that is known before it is tried."""

    teacher: str
    row: int
    step: int
    token: int
    position: float
    student_entropy: float
    teacher_entropy: float
    divergence: float
    teacher_prob: float
    student_prob: float


SCORES: Mapping[str, Callable[[Alternative], float]] = {
    "position, late": lambda one: one.position,
    "student entropy, low": lambda one: -one.student_entropy,
    "teacher entropy, low": lambda one: -one.teacher_entropy,
    "KL(teacher‖student), low": lambda one: -one.divergence,
    "teacher's probability, high": lambda one: one.teacher_prob,
    "student's probability, high": lambda one: one.student_prob,
}
"""Name, with the end that is held to promise success → the score of an alternative."""


def probe(scene: Scene, knobs: Knobs) -> Finding:
    """Try every teacher's alternatives on the student's rollouts and rank the scores that might foretell success.

    Raises UserError if the recipe has no teacher and no view is asked for.
    """
    if not scene.teachers:
        raise UserError(
            "recipe has no teacher whose tokens could be tried: name a view, as in --views solution"
        )
    tried = chosen(scene, alternatives(scene, knobs), knobs)
    scene.learner.progress.say(f"completing {len(tried)} alternatives {knobs.completions} times each")
    outcomes = successes(
        scene.learner.policy,
        scene.learner.task,
        [Branch(scene.rollouts[one.row], one.step, one.token) for one in tried],
        scene.sampling,
        completions=knobs.completions,
        batch_size=scene.batch_size,
    ).numpy()
    return finding(scene, knobs, tried, outcomes)


@torch.no_grad()
def alternatives(scene: Scene, knobs: Knobs) -> list[Alternative]:
    """Every teacher's likely tokens that the student did not take, at every position of every rollout."""
    temperature = scene.recipe.rollouts.temperature
    columns, found = scene.scoring.columns, []
    lengths = columns.mask.sum(1)
    for part in scene.scoring.parts():
        batch = scene.scoring.batch(part)
        for chunk in chunks(batch, torch.ones_like(batch.layout.row, dtype=torch.bool), CHUNK):
            at = positions_of(batch, chunk, [STUDENT, *scene.teachers])
            student = at.log_probs(STUDENT, temperature)
            place = (at.step + 0.5) / lengths[at.row]
            for name in scene.teachers:
                theirs = at.log_probs(name, temperature)
                seen = columns.seen((name,))[at.row, at.step].unsqueeze(1)
                others = (theirs.exp() * seen).scatter(1, at.ids.unsqueeze(1), 0.0)
                likely, tokens = others.topk(min(knobs.candidates, others.shape[1]), dim=1)
                gap = ForwardKL()(student, theirs)
                sides = (entropy(student), entropy(theirs), gap)
                for n, k in (likely >= knobs.min_prob).nonzero().tolist():
                    token = int(tokens[n, k])
                    own = Alternative(
                        teacher=scene.shown(name),
                        row=int(at.row[n]),
                        step=int(at.step[n]),
                        token=token,
                        position=float(place[n]),
                        student_entropy=float(sides[0][n]),
                        teacher_entropy=float(sides[1][n]),
                        divergence=float(sides[2][n]),
                        teacher_prob=float(likely[n, k]),
                        student_prob=float(student[n, token].exp()),
                    )
                    found.append(own)
    return found


def chosen(scene: Scene, found: Sequence[Alternative], knobs: Knobs) -> list[Alternative]:
    """Those at ``knobs.nodes`` positions of each rollout and teacher, drawn at random."""
    rng = np.random.default_rng(scene.learner.config.seed)
    sites: dict[tuple[str, int], dict[int, None]] = {}
    for one in found:
        sites.setdefault((one.teacher, one.row), {})[one.step] = None
    kept = {
        key: set(rng.permutation(list(steps))[: knobs.nodes].tolist()) for key, steps in sorted(sites.items())
    }
    return [one for one in found if one.step in kept[one.teacher, one.row]]


# --- what is shown


def finding(scene: Scene, knobs: Knobs, tried: Sequence[Alternative], outcomes: np.ndarray) -> Finding:
    names = [scene.shown(name) for name in scene.teachers]
    about: dict[str, Cell] = {
        "rollouts": len(scene.rollouts),
        "right rollouts": sum(scene.correct),
        "alternatives tried": len(tried),
        "completions of each": knobs.completions,
    }
    rows = [
        {
            **vars(one),
            "prompt": scene.rollouts[one.row].group,
            "correct": scene.correct[one.row],
            "token": scene.learner.policy.renderer.show([one.token]),
            "successes": int(outcome.sum()),
        }
        for one, outcome in zip(tried, outcomes, strict=True)
    ]
    tables = [table for name in names for table in tables_of(scene, name, tried, outcomes)]
    return Finding("branches", "Branch viability", about, tables, rows)


def tables_of(
    scene: Scene, name: str, tried: Sequence[Alternative], outcomes: np.ndarray
) -> tuple[Table, Table]:
    """One teacher's AUROCs and its viability along the rollout; every completion is a row."""
    own = [i for i, one in enumerate(tried) if one.teacher == name]
    rows = [tried[i] for i in own for _ in range(outcomes.shape[1])]
    label = outcomes[own].reshape(-1)
    groups = np.array([scene.rollouts[one.row].group for one in rows], dtype=int)
    return ranking(name, rows, label, groups), along(scene, name, rows, label, groups)


def ranking(name: str, rows: Sequence[Alternative], label: np.ndarray, groups: np.ndarray) -> Table:
    scores = {score: np.array([read(one) for one in rows], dtype=float) for score, read in SCORES.items()}
    first = next(iter(scores))

    def advantage(score: str) -> Cell:
        """AUROC of position minus this one's, on the same draws of prompts."""
        ours, theirs = auroc(scores[first], label), auroc(scores[score], label)
        return (
            None if score == first else bootstrap(lambda w: ours(w) - theirs(w), groups, bounds=(-1.0, 1.0))
        )

    cells = [
        {
            "score": score,
            "AUROC": bootstrap(auroc(values, label), groups, bounds=(0.0, 1.0)),
            "AUROC(position) − AUROC": advantage(score),
        }
        for score, values in scores.items()
    ]
    note = (
        f"{int(label.sum())} of {len(label)} completions of {name}'s alternatives ended right. ½ is chance; below ½ "
        "the other end promises more. 95 % bootstrap interval over prompts."
    )
    return Table(f"{name}: what foretells that an alternative ends right", note, cells)


def along(
    scene: Scene, name: str, rows: Sequence[Alternative], label: np.ndarray, groups: np.ndarray
) -> Table:
    place = np.array([one.position for one in rows], dtype=float)
    correct = np.array([scene.correct[one.row] for one in rows], dtype=bool)
    fifth = np.minimum((place * FIFTHS).astype(int), FIFTHS - 1)

    def cell(where: np.ndarray) -> Cell:
        return share_interval(label[where], groups[where])

    cells = [
        {
            "position": f"{i / FIFTHS:.1f} to {(i + 1) / FIFTHS:.1f}",
            "all": cell(fifth == i),
            "on right rollouts": cell((fifth == i) & correct),
            "on wrong rollouts": cell((fifth == i) & ~correct),
        }
        for i in range(FIFTHS)
    ]
    every = {"position": "all", "all": cell(fifth >= 0), "on right rollouts": cell(correct)}
    return Table(
        f"{name}: share of its alternatives that end right",
        "By relative position (t − ½)/|y| of the forced token.",
        [*cells, {**every, "on wrong rollouts": cell(~correct)}],
    )
