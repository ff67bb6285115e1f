"""Stored answers, scored once by every teacher that never moves, for a cache that runs train from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress, islice
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from selfteach.checks import require
from selfteach.errors import NotFinite, UserError
from selfteach.objective.batch import Scored
from selfteach.objective.listed import Listed, listed_of
from selfteach.objective.positions import log_softmax
from selfteach.recipes.base import Recipe
from selfteach.task.trajectory import Trajectory
from selfteach.training.config import TrainConfig
from selfteach.training.reduce import processes
from selfteach.training.text.batch import Scoring
from selfteach.training.text.batching import rows_of
from selfteach.training.text.learner import TextLearner
from selfteach.training.text.store import require_answers
from selfteach.training.text.teachers.cache import CacheWriter, rollouts_in
from selfteach.training.text.teachers.given import offline
from selfteach.training.text.teachers.handed import Piece, advice, handed_roles, piece_of
from selfteach.training.text.teachers.identity import identity_of
from selfteach.training.text.teachers.manifest import CacheDtype, Identity, Made, Manifest
from selfteach.training.text.update import losses_of

GROUPS = 8
"""Prompts whose answers are scored together: views may show one what became of its siblings."""
POSITIONS = 256
"""Logits that are alive at a time."""


def score(
    learner: TextLearner,
    out: Path,
    *,
    top_logprobs: int | None = 64,
    dtype: CacheDtype = "float16",
    rollouts: Path | None = None,
) -> Manifest:
    """Fill the cache in ``out`` with the scores of the recipe's stored answers, or go on where it was left.

    ``top_logprobs``: tokens listed at a position (None: the whole vocabulary). ``rollouts``: a file or a run's folder
    with answers that were stored before (None: the recipe writes its ``stored`` ones now). UserError where the recipe
    cannot be trained on such scores, and why; where the disk refuses: what is whole stays.
    """
    config, recipe = learner.config, scorable(learner.config, rollouts)
    require(
        processes()[1] == 1, "selfteach score runs in one process: start it without accelerate or torchrun"
    )
    roles, vocabulary = handed_roles(recipe), learner.policy.vocabulary
    identities = dict(identities_of(learner, vocabulary))
    made = Made(
        method=config.recipe_name,
        roles=identities,
        top_logprobs=min(top_logprobs or vocabulary, vocabulary),
        vocabulary=vocabulary,
        dtype=dtype,
        precision=config.loading.teacher_dtype or config.loading.precision,
        stored=recipe.rollouts.stored if rollouts is None else None,
    )
    writer = CacheWriter(out, made)
    rows = writer.rollouts() or answers(learner, recipe, rollouts)
    if writer.manifest.rollouts is None:
        learner.progress.say(f"cache: {refuse_full(out, made, rows, len(roles))}")
        refuse_unreadable(learner, rows, list(roles), made.top_logprobs)
        writer.keep(rows)
    todo = [list(one) for one in in_groups(rows, GROUPS)]
    for done, part in enumerate(todo):
        add(learner, writer, part, list(roles))
        learner.progress.working("scoring", (done + 1) / len(todo))
    return writer.finish()


def scorable(config: TrainConfig, rollouts: Path | None) -> Recipe:
    """The recipe's only stage. UserError, before anything is loaded, where no cache can be made of it, and why."""
    recipe = offline(config.recipe_name, list(config.recipe.stages.values()))
    require(
        rollouts is not None or recipe.rollouts.stored > 0,
        "nothing says how many prompts are to be answered and scored: set --stored, or give --rollouts",
    )
    return recipe


def identities_of(learner: TextLearner, vocabulary: int) -> Iterator[tuple[str, Identity]]:
    """What each role scores with. UserError for one of another vocabulary than the student's."""
    for name, role in handed_roles(learner.recipe).items():
        policy = learner.models.weights.policy_of(role.weights)
        require(
            policy.vocabulary == vocabulary,
            f"role {name!r} has {policy.vocabulary:,} tokens, the student {vocabulary:,}: name one of its tokenizer",
        )
        yield name, identity_of(learner.config, role, policy)


def answers(learner: TextLearner, recipe: Recipe, given: Path | None) -> list[Trajectory]:
    """The answers to score: those given, or what the recipe writes and grades."""
    if given is not None:
        rows = rollouts_in(stored_file(given))
    else:
        written, _ = learner.writing.write(recipe.rollouts.stored, 0)
        rows = rows_of(learner.writing.judged(written))
        others = [name for name, one in learner.writing.stores.items() if one.trajectories or one.notes]
        require(
            not others,
            f"recipe {learner.config.recipe_name} keeps more than its answers ({', '.join(others)}), which a teacher "
            "cache does not hold",
        )
    require_answers(len(rows))
    # What a role said at some temperature is said anew by the cache.
    handed = handed_roles(recipe)
    return [
        replace(one, log_probs={k: v for k, v in one.log_probs.items() if k not in handed}) for one in rows
    ]


def stored_file(given: Path) -> Path:
    """A file of answers, or the last one that a run stored. UserError where there is none, or several."""
    if not given.is_dir():
        return given
    found = [*(given / "stored").glob("*-0-*.jsonl")] or [*given.glob("rollouts.jsonl")]
    stores = {one.name.rpartition("-0-")[0] for one in found} - {"served"}
    if len(stores) != 1:
        raise UserError(
            f"{given} holds {'no' if not stores else 'several kinds of'} stored answers: name the file "
            "(RUN/stored/STAGE-0-N.jsonl) with --rollouts"
        )
    return max(found, key=lambda one: int(one.stem.rpartition("-")[2] or 0) if "-0-" in one.name else 0)


def in_groups(rows: Sequence[Trajectory], count: int) -> Iterator[list[Trajectory]]:
    """The rows of so many prompts at a time, each prompt's together."""
    by_group: dict[int, list[Trajectory]] = {}
    for one in rows:
        by_group.setdefault(one.group, []).append(one)
    left = iter(by_group.values())
    while some := list(islice(left, count)):
        yield [one for group in some for one in group]


def add(learner: TextLearner, writer: CacheWriter, rows: Sequence[Trajectory], roles: Sequence[str]) -> None:
    """The scores of these rows, but for those that the cache has already."""
    contexts = learner.batching.views(rows, roles)
    pieces: Mapping[str, Mapping[int, Piece]] = {
        name: {i: one for i, row in enumerate(rows) if (one := piece_of(row, read, i)) is not None}
        for name, read in contexts.items()
    }
    keys = {(name, i): one.key(name) for name, found in pieces.items() for i, one in found.items()}
    if writer.known.issuperset(keys.values()):
        return
    scoring = learner.batching.scoring(rows, contexts, alone=True)
    scoring.score_frozen()
    for (name, i), key in keys.items():
        if pieces[name][i].positions:
            writer.add(key, listed(scoring, name, i, pieces[name][i], writer.made.top_logprobs))


def listed(scoring: Scoring, role: str, row: int, piece: Piece, k: int) -> Listed:
    """A role's k likeliest tokens at the row's positions behind where it begins, on the CPU. ``NotFinite`` of NaN."""
    end = scoring.begins[row + 1]
    one, ids = scoring.frozen[role], torch.tensor(piece.sampled)
    states = one.states[end - piece.positions : end]
    return likeliest(replace(one, states=states), ids, k, role).rows(torch.Tensor.cpu)


@torch.no_grad()
def likeliest(one: Scored, ids: Int[Tensor, "P"], k: int, role: str) -> Listed:
    """What a role that scored [P, d] states says on its k likeliest tokens, a few positions' logits at a time.
    ``NotFinite`` of NaN."""
    parts: list[Listed] = []
    for states, sampled in zip(one.states.split(POSITIONS), ids.split(POSITIONS), strict=True):
        log_probs = log_softmax(one.head.logits(states))
        if not log_probs.isfinite().any(-1).all() or log_probs.isnan().any():
            raise NotFinite(
                f"role {role!r} gives NaN: its weights are not finite, or too large for its precision"
            )
        parts.append(listed_of(log_probs, sampled.to(log_probs.device), k))
    return Listed(
        torch.cat([one.states for one in parts]),
        ids=torch.cat([one.ids for one in parts]),
        tail=torch.cat([one.tail for one in parts]),
        sampled=torch.cat([one.sampled for one in parts]),
        vocabulary=parts[0].vocabulary,
    )


def refuse_full(out: Path, made: Made, rows: Sequence[Trajectory], roles: int) -> str:
    """What the cache will take, in words. UserError where the disk has less."""
    needed = int(sum(sum(one.mask) for one in rows) * roles * made.bytes_per_token)
    there = next(one for one in (out.absolute(), *out.absolute().parents) if one.is_dir())
    free = shutil.disk_usage(there).free
    said = f"{needed / 1e9:.2f} GB for {made.top_logprobs:,} of {made.vocabulary:,} tokens a position"
    require(
        needed < free,
        f"the cache would take {said}, and {out} has {free / 1e9:.2f} GB left: list fewer (--top-logprobs), store "
        "fewer answers, or name another --out",
    )
    return said


def refuse_unreadable(learner: TextLearner, rows: Sequence[Trajectory], roles: Sequence[str], k: int) -> None:
    """UserError, before anything is scored, where the recipe's terms read more of a role than its k likeliest tokens
    and the mass of the rest: on the rows of the first prompts."""
    batch = learner.batching.of(next(in_groups(rows, GROUPS)), learner.recipe.active(0), 0, alone=True)
    scoring = batch.scoring
    scoring.score_frozen()
    for name in set(roles) & set(scoring.frozen):
        ids = torch.tensor([token for one in scoring.rows for token in compress(one.ids, one.mask)])
        scoring.frozen[name] = likeliest(scoring.frozen[name], ids, k, name)
    if not batch.listed:
        return
    try:
        with torch.no_grad():
            for _ in losses_of(batch):
                pass
    except NotFinite as problem:
        name = learner.config.recipe_name
        raise UserError(
            f"recipe {name} cannot train with {k} log-probs a token: {problem}; {advice(learner.recipe)}"
        ) from None
