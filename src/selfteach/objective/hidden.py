"""A distance between two roles' activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.objective.positions import Positions
from selfteach.objective.terms import Signal, Term


@dataclass(frozen=True, kw_only=True)
class Hidden(Term):
    """Distance of the role's features [P, f] to another role's: "mse" is the mean over f of the squared difference,
    "cosine" 1 − their cosine. The gradient goes into the role's features alone. ValueError: a role has no features, or
    the widths differ.
    """

    target: str
    distance: Literal["mse", "cosine"] = "mse"

    trains: ClassVar[Literal["logits", "features"]] = "features"

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        return {self.role: "features", self.target: "features"}

    def token_loss(self, at: Positions) -> Float[Tensor, "P"]:
        for role in (self.role, self.target):
            if role not in at.features:
                raise ValueError(f"role {role!r} has no features, which are compared")
        own, theirs = at.features[self.role], at.features[self.target].detach()
        if own.shape != theirs.shape:
            raise ValueError(
                f"features of {self.role!r} are {own.shape[-1]} wide, of {self.target!r} {theirs.shape[-1]}"
            )
        if self.distance == "mse":
            return (own - theirs.to(own.dtype)).square().mean(-1)
        return 1 - torch.cosine_similarity(own, theirs.to(own.dtype), dim=-1)
