"""Scores that are handed over: for a role whose weights are not here, the likeliest tokens of every row it reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import compress
from typing import Protocol

import numpy as np
import torch

from selfteach.objective.listed import Listed
from selfteach.recipes import knobs
from selfteach.recipes.base import Recipe
from selfteach.roles.role import Role
from selfteach.roles.weights import External, Frozen
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.contexts import Context


@dataclass(frozen=True)
class Piece:
    """What a role scores of a row: the ``response`` behind its own ``context``, at the ``written`` tokens."""

    context: Sequence[int]
    response: Sequence[int]
    written: Sequence[bool]

    @property
    def positions(self) -> int:
        return sum(self.written)

    @property
    def sampled(self) -> list[int]:
        """The ids at these positions."""
        return list(compress(self.response, self.written))

    def key(self, role: str) -> bytes:
        """16 bytes by which a row finds its scores: a hash of the role's name, the context's and response's ids, and
        which of these were written."""
        found = sha256(f"{role} {len(self.context)} {len(self.response)} ".encode())
        for ids in (self.context, self.response):
            found.update(np.asarray(ids, dtype="<i4").tobytes())
        found.update(bytes(self.written))
        return found.digest()[:16]


class Handed(Protocol):
    """Who hands over the scores of ``roles``; ``vocabulary``: how many tokens there are."""

    @property
    def roles(self) -> Collection[str]: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def k(self) -> int:
        """Tokens that it lists at a position."""

    @property
    def stored(self) -> Sequence[Trajectory]:
        """The stored answers that it has scores of, and of no others; empty: it scores whatever comes."""

    def scores(self, role: str, pieces: Sequence[Piece]) -> Sequence[Listed | str]:
        """The scores [P] of each piece's written tokens, on the CPU; or, in words, why it can give none now. UserError
        where it must have some and has not."""

    def forget(self) -> None:
        """What was said so far is not asked for again: a new batch begins."""

    def describe(self, role: str) -> str:
        """What it hands over of the role, and where that comes from, in a sentence."""


def scored(
    handed: Handed,
    role: str,
    rows: Sequence[Trajectory],
    read: Context,
    device: torch.device,
    dtype: torch.dtype,
) -> Listed:
    """[P] the role's scores of all rows' written positions; where it sees nothing they may be anything, and are read by
    nobody (``Columns.available``)."""
    pieces = {i: one for i, row in enumerate(rows) if (one := piece_of(row, read, i)) is not None}
    given = zip(pieces, handed.scores(role, list(pieces.values())), strict=True)
    found = {i: one for i, one in given if isinstance(one, Listed)}
    k = handed.k
    parts: list[Listed] = []
    for i, row in enumerate(rows):
        known = pieces[i].positions if i in found else 0
        parts += [blank(sum(row.mask) - known, k, handed.vocabulary), *([found[i]] if i in found else [])]
    return joined(parts, device, dtype, k, handed.vocabulary)


def without_unscored(
    handed: Handed, rows: Sequence[Trajectory], contexts: Mapping[str, Context], roles: Collection[str]
) -> tuple[dict[str, Context], dict[str, list[str | None]]]:
    """(the contexts, in which a role sees nothing of a row that it could not be had to score; by role, of each row that
    it was to score, why it could not, None where it could); ``roles``: those that are to score."""
    left, unscored = dict(contexts), dict[str, list[str | None]]()
    for role in [name for name in roles if name in handed.roles]:
        read = contexts[role]
        pieces = {i: one for i, row in enumerate(rows) if (one := piece_of(row, read, i)) is not None}
        scores = dict(zip(pieces, handed.scores(role, list(pieces.values())), strict=True))
        unscored[role] = [one if isinstance(one, str) else None for one in scores.values()]
        prompts = [ids if isinstance(scores.get(i), Listed) else None for i, ids in enumerate(read.prompts)]
        left[role] = replace(read, prompts=prompts)
    return left, unscored


def piece_of(row: Trajectory, read: Context, i: int) -> Piece | None:
    """What a role is to score of row ``i``; None: it sees nothing there, or nothing that was written."""
    context, begin = read.prompts[i], read.begin(i)
    return (
        None
        if context is None or not any(row.mask[begin:])
        else Piece(context, row.ids[begin:], row.mask[begin:])
    )


def blank(positions: int, k: int, vocabulary: int) -> Listed:
    """Scores that nobody may read."""
    unknown = torch.full((positions,), torch.nan)
    ids = torch.arange(k).expand(positions, k)
    log_probs = unknown.unsqueeze(1).expand(positions, k)
    return Listed(log_probs, ids=ids, tail=unknown, sampled=unknown, vocabulary=vocabulary)


def joined(
    parts: Sequence[Listed], device: torch.device, dtype: torch.dtype, k: int, vocabulary: int
) -> Listed:
    """One after the other."""
    parts = parts or [blank(0, k, vocabulary)]
    return Listed(
        torch.cat([one.states for one in parts]).to(device, dtype),
        ids=torch.cat([one.ids for one in parts]).to(device),
        tail=torch.cat([one.tail for one in parts]).to(device, dtype),
        sampled=torch.cat([one.sampled for one in parts]).to(device, dtype),
        vocabulary=vocabulary,
    )


def handed_roles(recipe: Recipe) -> dict[str, Role]:
    """The teachers whose scores can be had from elsewhere: their weights never move in the stage, and they write
    nothing before they score."""
    return {
        name: role
        for name, role in recipe.teachers.items()
        if isinstance(role.weights, Frozen | External) and role.reason_first is None
    }


def advice(recipe: Recipe) -> str:
    """What to set where a recipe's terms read more than is handed over."""
    own = knobs(recipe)
    name = next((one for one in ("teacher_top_k", "loss_top_k") if one in own), None)
    every = "score with --top-logprobs none, which lists every token"
    return every if name is None else f"set {name} to as many or fewer, or {every}"


def why_none(recipe: Recipe) -> str:
    """Why a recipe has no such teacher, naming the first that is not one."""
    for name, role in recipe.teachers.items():
        if role.reason_first is not None:
            return f"role {name!r} writes an analysis before it scores (reason_first)"
        return f"the weights of role {name!r} follow the training ({type(role.weights).__name__})"
    return "it has no teacher that scores"
