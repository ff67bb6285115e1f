"""Where the gradients of a batch add up: one sum for each tensor that a planned term trains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.objective.batch import STUDENT, Scored, ScoredBatch, accumulation
from selfteach.objective.terms import Term


@dataclass(frozen=True)
class Sums:
    """``tensors``: the distinct states, features and head tensors that require a gradient and belong to a role that a
    term trains; ``gradients``: their sums, float32 at least. A tensor of two roles has one sum.

    ``trained``: ("logits" | "features", role) for which a gradient is wanted.
    """

    batch: ScoredBatch
    trained: tuple[tuple[str, str], ...]
    tensors: tuple[Float[Tensor, "..."], ...]
    gradients: tuple[Float[Tensor, "..."], ...]

    @classmethod
    def of(cls, batch: ScoredBatch, terms: Sequence[Term]) -> Sums:
        # Without any term the student's path stays, so that a loss of 0 can be called backward on.
        keys = dict.fromkeys([(t.trains, t.role) for t in terms] or [("logits", STUDENT)])
        trained, tensors = [], {}
        for kind, role in keys if torch.is_grad_enabled() else ():
            wanted = [t for t in _tensors(kind, batch.roles.get(role)) if t.requires_grad]
            if wanted:
                trained.append((kind, role))
                tensors.update({id(t): t for t in wanted})
        found = tuple(tensors.values())
        zeros = tuple(torch.zeros_like(t, dtype=accumulation(t.dtype)) for t in found)
        return cls(batch, tuple(trained), found, zeros)

    @property
    def logits_of(self) -> list[str]:
        """The roles whose logits get a gradient."""
        return [role for kind, role in self.trained if kind == "logits"]

    @property
    def features_of(self) -> list[str]:
        """The roles whose features get one."""
        return [role for kind, role in self.trained if kind == "features"]

    def sum_of(self, tensor: Float[Tensor, "*axes"] | None) -> Float[Tensor, "*axes"] | None:
        """The sum that belongs to a tensor; None if it wants no gradient."""
        return next((g for t, g in zip(self.tensors, self.gradients, strict=True) if t is tensor), None)

    def pull_back(self, role: str, place: Int[Tensor, "p"], gradient: Float[Tensor, "p V"]) -> None:
        """Add what the [p, V] gradient before the soft-cap at positions ``place`` gives a role's states and head."""
        scored = self.batch.roles[role]
        sums = [self.sum_of(t) for t in scored.head.tensors]
        states = scored.head.pull_back(gradient, scored.states.detach()[place], sums)
        _add_at(self.sum_of(scored.states), place, states)

    def add_features(self, role: str, place: Int[Tensor, "p"], gradient: Float[Tensor, "p f"]) -> None:
        """Add the [p, f] gradient in a role's features at positions ``place``."""
        _add_at(self.sum_of(self.batch.roles[role].features), place, gradient)


def _tensors(kind: str, scored: Scored | None) -> Iterable[Tensor]:
    if scored is None:
        return ()
    if kind == "features":
        return () if scored.features is None else (scored.features,)
    return (scored.states, *scored.head.tensors)


def _add_at(total: Tensor | None, place: Tensor, values: Tensor) -> None:
    if total is not None:
        total.index_add_(0, place.to(total.device), values.to(total))
