"""Where a stage's trained weights start: where the last one left them, at the base model, or at another stage's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from selfteach.errors import UserError
from selfteach.policy.loading import Policy
from selfteach.policy.sharding import as_sharded
from selfteach.recipes.base import Recipe
from selfteach.recipes.parts import BASE, END, PREVIOUS

Named = dict[str, Shaped[Tensor, "..."]]


class Starts:
    """Copies of the trained weights that a later stage begins from (Sleep, ERPD, pi-Play), and no others."""

    def __init__(self, policies: Mapping[str, Policy], recipes: Sequence[Recipe]) -> None:
        self.policies = policies
        self.wanted = starts_of(recipes)
        self.copies: dict[str, dict[str, Named]] = {name: {} for name in policies}

    def keep(self, moment: str) -> None:
        """Keep the weights as they are now, if a stage starts from them: ``BASE``, or a stage's end by its name."""
        place = moment if moment == BASE else END + moment
        for name, policy in self.policies.items():
            if (name, place) in self.wanted:
                self.copies[name][place] = {k: p.detach().clone() for k, p in policy.trainable().items()}

    @torch.no_grad()
    def put(self, name: str, start: str) -> None:
        """Set the weights ``name`` to a start. UserError for the end of a stage that has not been yet."""
        if start == PREVIOUS:
            return
        if start not in self.copies[name]:
            raise UserError(f"weights {name!r} are to start at {start!r}, which is yet to come")
        for place, parameter in self.policies[name].trainable().items():
            parameter.copy_(as_sharded(self.copies[name][start][place], parameter))

    def let_go(self, later: Sequence[Recipe]) -> None:
        """Drop the copies that no stage of ``later`` starts from."""
        wanted = starts_of(later)
        for name, kept in self.copies.items():
            self.copies[name] = {place: own for place, own in kept.items() if (name, place) in wanted}

    def state(self) -> dict[str, Any]:
        return {name: dict(kept) for name, kept in self.copies.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for name, kept in state.items():
            device = self.policies[name].model.device
            self.copies[name] = {
                place: {k: t.to(device) for k, t in own.items()} for place, own in kept.items()
            }


def starts_of(recipes: Sequence[Recipe]) -> set[tuple[str, str]]:
    """(name of the trained weights, where they start) of these stages."""
    return {(name, trained.start) for one in recipes for name, trained in one.trained.items()}
