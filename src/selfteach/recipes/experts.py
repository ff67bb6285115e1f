"""External teachers by tag: one model for all examples, or an expert for each kind of them; or none but oneself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.checks import require
from selfteach.objective.statistics import Statistics
from selfteach.recipes.base import TEACHER
from selfteach.roles.role import Role
from selfteach.roles.view import Plain, Solution
from selfteach.roles.weights import External, Frozen

ITSELF = "self"
"""Instead of a larger model: the initial policy, which reads the reference solution."""
ROUTED = re.compile(r"([\w-]+)=(.+)")


def routes(teacher: str) -> dict[str | None, str]:
    """ "math=A,code=B" → tag → model; one model without a tag → {None: model}. UserError if it is neither."""
    parts = [part.strip() for part in teacher.split(",")]
    found = [ROUTED.fullmatch(part) for part in parts]
    if teacher and found == [None]:
        return {None: teacher}
    tagged: dict[str | None, str] = {match[1]: match[2] for match in found if match is not None}
    require(
        len(tagged) == len(parts),
        f"teacher must be one model, or tag=model,tag=model with each tag once; got {teacher!r}",
    )
    return tagged


def experts(
    teacher: str, thinking: bool | None = None, signal: Literal["full", "sampled"] = "full"
) -> dict[str, Role]:
    """The models of ``routes`` as roles, by name: "teacher", or "teacher-TAG", which scores examples of its tag."""
    return {
        TEACHER if tag is None else f"{TEACHER}-{tag}": Role(
            External(model), Plain(), thinking, signal=signal, tag=tag
        )
        for tag, model in routes(teacher).items()
    }


def itself_or(teacher: str, thinking: bool | None = None) -> Role:
    """The model of this name under the student's own prompt; of ``ITSELF`` the initial policy with the solution before
    it (OPSD's teacher)."""
    if teacher == ITSELF:
        return Role(Frozen(), Solution(), thinking)
    return Role(External(teacher), Plain(), thinking)


def taught(stats: Statistics, names: Sequence[str]) -> tuple[Float[Tensor, "N T"], Bool[Tensor, "N T"]]:
    """([N, T] the log-prob (nats) of each token by the one of these roles that scored it, 0 where none did; [N, T] bool
    where one did)."""
    scores = torch.zeros_like(stats.mask, dtype=stats.dtype)
    seen = torch.zeros_like(stats.mask)
    for name in names:
        scores = torch.where(stats.seen(name), stats.log_prob(name), scores)
        seen = seen | stats.seen(name)
    return scores, seen
