"""A match on a few candidate tokens, chosen by all roles of the target together and by the sample (AVSD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.entrywise import NEVER
from selfteach.objective.positions import Positions, only_sampled
from selfteach.objective.terms import Match
from selfteach.objective.top import top_ids


@dataclass(frozen=True, kw_only=True)
class CandidateMatch(Match):
    """``Match`` on the union of the ``k`` likeliest tokens of each of the target's roles and the sampled one.

    All roles are renormalized on these before the target is formed; every other token counts as impossible.
    k = V is ``Match``. A ``support`` then cuts further.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        return super().token_loss(self.candidates_of(at))

    def logit_gradient(self, at: Positions) -> tuple[Float[Tensor, "P"], Float[Tensor, "P V"]]:
        return super().logit_gradient(self.candidates_of(at))

    def candidates_of(self, at: Positions) -> Positions:
        """The same positions with −inf for everybody outside the candidates."""
        roles = (self.role, *self.target.names)
        outside = torch.ones_like(at.logits[self.role], dtype=torch.bool)
        outside.scatter_(-1, at.ids.unsqueeze(-1), False)
        for name in self.target.names:
            if name not in at.logits:
                raise only_sampled(name)
            likeliest = top_ids(at.logits[name], min(self.k, outside.shape[-1]))
            outside.scatter_(-1, likeliest, False)
        # Of log-probs, not of logits: a NaN among those cut off must not vanish with them.
        return at.with_logits({role: at.log_probs(role).masked_fill(outside, NEVER) for role in roles})
