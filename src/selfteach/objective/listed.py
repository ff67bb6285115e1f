"""A role known on its likeliest tokens alone: k listed log-probs, the sampled token's, and the mass of the rest.

What a teacher's cache or a server hands over. It is exact for whatever reads the role on its own k' ≤ k likeliest
tokens (with the rest as a bucket, rescaled away, or dropped) or on the sampled token; ``Positions`` refuses every other
reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from selfteach.objective.axes import LogProbs
from selfteach.objective.batch import Scored, accumulation
from selfteach.objective.entrywise import NEVER


@dataclass(frozen=True, kw_only=True)
class Listed(Scored):
    """``states`` [P, k] are log-probs (nats, temperature 1) of the tokens ``ids`` [P, k], likeliest first; ``tail`` [P]
    is the log of what all others have together, ``sampled`` [P] the log-prob of the token that stands there.

    ``vocabulary``: the tokens there are, V. The tail is taken as it is given, never as 1 − Σ of rounded numbers. Raises
    ValueError where shapes do not fit, k lies beyond V, or somebody asks for its features, which it has not.
    """

    ids: Int[Tensor, "*P k"]
    tail: Float[Tensor, "*P"]
    sampled: Float[Tensor, "*P"]
    vocabulary: int

    def __post_init__(self) -> None:
        places = self.states.shape[:-1]
        if self.ids.shape != self.states.shape or not self.tail.shape == self.sampled.shape == places:
            shapes = [tuple(one.shape) for one in (self.states, self.ids, self.tail, self.sampled)]
            raise ValueError(f"log-probs and ids must be [P, k], tail and sampled [P], got {shapes}")
        if not 1 <= self.k <= self.vocabulary:
            raise ValueError(f"k must lie in [1, {self.vocabulary}], the vocabulary, got {self.k}")
        if self.features is not None:
            raise ValueError(
                f"hidden states are read of a role that hands over {self.k} log-probs a token: let its weights score"
            )

    @property
    def k(self) -> int:
        """Tokens listed at a position."""
        return self.states.shape[-1]

    @property
    def width(self) -> int:
        return self.vocabulary

    @property
    def whole(self) -> bool:
        """Whether every token is listed: then nothing is unknown."""
        return self.k >= self.vocabulary

    def rows(self, some: Callable[[Shaped[Tensor, "*P ..."]], Shaped[Tensor, "*p ..."]]) -> Listed:
        states, ids, tail, sampled = (some(one) for one in (self.states, self.ids, self.tail, self.sampled))
        return replace(self, states=states, ids=ids, tail=tail, sampled=sampled)

    @classmethod
    def of(
        cls,
        log_probs: Float[Tensor, "P k"],
        ids: Int[Tensor, "P k"],
        tail: Float[Tensor, "P"],
        sampled: Float[Tensor, "P"],
        vocabulary: int,
    ) -> Listed:
        """The same of numbers from outside, in any order. ValueError for a NaN, a log-prob above 0, an id that is
        listed twice or lies beyond the vocabulary."""
        for name, values in (("log-probs", log_probs), ("tail", tail), ("sampled", sampled)):
            if values.isnan().any() or (values > 1e-3).any():
                raise ValueError(f"{name} must be at most 0 and no NaN, got {float(values.max())}")
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            raise ValueError(f"ids must lie in [0, {vocabulary}), got {int(ids.min())} to {int(ids.max())}")
        ordered = ids.sort(dim=-1).values
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise ValueError("an id is listed twice at a position")
        order = log_probs.argsort(dim=-1, descending=True, stable=True)
        return cls(
            log_probs.gather(-1, order),
            ids=ids.gather(-1, order),
            tail=tail,
            sampled=sampled,
            vocabulary=vocabulary,
        )

    def log_probs(self, sampled: Int[Tensor, "P"]) -> LogProbs:
        """[P, V] log-probs: the listed ones and that of the ``sampled`` ids [P] as they are, and of the tail what is
        left in even shares over all others. An even share is never above the least listed log-prob: the true ones are
        all below it."""
        dtype = accumulation(self.states.dtype)
        listed, tail, own = (one.to(dtype) for one in (self.states, self.tail, self.sampled))
        apart = (self.ids != sampled.unsqueeze(-1)).all(-1)
        others = self.vocabulary - self.k - apart.long()
        rest = torch.where(apart, log_difference(tail, own), tail)
        share = torch.minimum(rest - others.clamp(min=1).to(dtype).log(), listed[..., -1])
        made = share.unsqueeze(-1).repeat(1, self.vocabulary)
        made.scatter_(-1, sampled.unsqueeze(-1), own.unsqueeze(-1))
        return made.scatter_(-1, self.ids, listed)


def log_difference(larger: Float[Tensor, "*P"], smaller: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
    """log(exp larger − exp smaller), −inf where nothing is left."""
    nothing = smaller >= larger
    gap = (smaller - larger).masked_fill(nothing, -math.log(2))
    return (larger + torch.log1p(-gap.exp())).masked_fill(nothing, NEVER)


def listed_of(log_probs: LogProbs, sampled: Int[Tensor, "P"], k: int) -> Listed:
    """The ``k`` likeliest tokens (at most V) of full log-probs [P, V], and the ``sampled`` ids' [P]."""
    vocabulary = log_probs.shape[-1]
    # Not ``top_ids``: of equals either may be listed, but the likeliest must stand first, which it does not promise.
    top = log_probs.topk(min(k, vocabulary), sorted=True)
    rest = log_probs.scatter(-1, top.indices, NEVER)
    own = log_probs.gather(-1, sampled.unsqueeze(-1)).squeeze(-1)
    return Listed(top.values, ids=top.indices, tail=rest.logsumexp(-1), sampled=own, vocabulary=vocabulary)


def listed_roles(roles: Mapping[str, Scored]) -> dict[str, int]:
    """Role → how many tokens it lists, of those that do not list all."""
    return {name: one.k for name, one in roles.items() if isinstance(one, Listed) and not one.whole}


def beyond(role: str, k: int, read: str) -> ValueError:
    """What to say where more is read of a role than it hands over."""
    return ValueError(
        f"{read} of {role!r} is read, which hands over its {k} likeliest tokens and the mass of all others together: "
        f"compare on at most {k} of its own likeliest tokens"
    )


def other_temperature(role: str) -> ValueError:
    """What to say where such a role is read at a temperature that its list does not give."""
    return ValueError(
        f"the log-probs of {role!r} are read at another temperature than 1, which its list of likeliest tokens does "
        "not give: set loss_temperature to 1 (temperature, where the method has no other)"
    )
