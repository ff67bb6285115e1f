"""What is known of a batch's tokens and rows before anybody scores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Real, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """The small facts of the *whole* batch (all micro-batches and processes): N rows, T positions, right-padded.

    ``ids`` [N, T] long · ``mask`` [N, T] bool, True where the policy wrote the token · ``group`` [N] rows of one prompt
    share a number · ``reward`` [N] · ``behavior`` [N, T] log-prob (nats) when the token was sampled, NaN where nobody
    knows it · ``drawn`` [N, T] the same of those tokens alone that the student drew for this batch, NaN elsewhere ·
    ``turn`` [N, T] long · ``trajectory`` [N] long, rows that are turns of one trajectory share a number ·
    ``pair`` [N] long, the row that this one is preferred to (−1: none) · ``origin`` who wrote each row ·
    ``available`` role → [N] or [N, T] bool, where it sees its view (absent name: everywhere) · ``marks`` name → [N, T]
    bool, spans somebody pointed at · ``log_probs`` role → [N, T] log-prob (nats) of the sampled tokens, of a role
    that gave no more than these · ``numbers`` name → [N] or [N, T] · ``special`` name → token id ·
    ``precision`` of numbers made from these (None: that of the widest column, float32 where there is none) · ``turns``
    how many the longest trajectory has, and ``split`` whether one has several rows, where that was counted beforehand,
    so that nobody waits for a device to say so (None: it was not).

    What is None or absent is refused by name when a recipe reads it. Raises ValueError naming the column that does not
    fit ``ids``.
    """

    ids: Int[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    group: Int[Tensor, "N"] | None = None
    reward: Float[Tensor, "N"] | None = None
    behavior: Float[Tensor, "N T"] | None = None
    drawn: Float[Tensor, "N T"] | None = None
    turn: Int[Tensor, "N T"] | None = None
    trajectory: Int[Tensor, "N"] | None = None
    pair: Int[Tensor, "N"] | None = None
    origin: tuple[str, ...] | None = None
    available: Mapping[str, Bool[Tensor, "N"] | Bool[Tensor, "N T"]] = field(default_factory=dict)
    marks: Mapping[str, Bool[Tensor, "N T"]] = field(default_factory=dict)
    log_probs: Mapping[str, Float[Tensor, "N T"]] = field(default_factory=dict)
    numbers: Mapping[str, Real[Tensor, "N"] | Real[Tensor, "N T"]] = field(default_factory=dict)
    special: Mapping[str, int] = field(default_factory=dict)
    precision: torch.dtype | None = None
    turns: int | None = None
    split: bool | None = None

    def __post_init__(self) -> None:
        if self.ids.dim() != 2:
            raise ValueError(f"ids must be [N, T], got {tuple(self.ids.shape)}")
        tokens, rows = tuple(self.ids.shape), tuple(self.ids.shape[:1])
        for name in ("mask", "behavior", "drawn", "turn"):
            require_shape(name, getattr(self, name), tokens)
        for name in ("group", "reward", "trajectory", "pair"):
            require_shape(name, getattr(self, name), rows)
        for kind in ("marks", "log_probs"):
            for name, column in getattr(self, kind).items():
                require_shape(f"{kind}[{name!r}]", column, tokens)
        for kind in ("available", "numbers"):
            for name, column in getattr(self, kind).items():
                require_shape(f"{kind}[{name!r}]", column, rows, tokens)
        if self.origin is not None and len(self.origin) != len(self.ids):
            raise ValueError(f"origin must name {len(self.ids)} rows, got {len(self.origin)}")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers made from these columns."""
        if self.precision is not None:
            return self.precision
        found = torch.float32
        for column in (self.reward, self.behavior, *self.log_probs.values(), *self.numbers.values()):
            if column is not None and column.is_floating_point():
                found = torch.promote_types(found, column.dtype)
        return found

    def seen(self, roles: Iterable[str]) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the written tokens at which every one of the roles sees its view."""
        seen = self.mask
        for role in roles:
            if role in self.available:
                seen = seen & by_position(self.available[role])
        return seen


def by_position(column: Shaped[Tensor, "*N"]) -> Shaped[Tensor, "..."]:
    """[N] → [N, 1]; [N, T] and 0-dim as they are."""
    return column.unsqueeze(1) if column.dim() == 1 else column


def require_shape(name: str, column: Shaped[Tensor, "..."] | None, *allowed: tuple[int, ...]) -> None:
    """ValueError naming a column whose shape is none of the allowed."""
    if column is not None and tuple(column.shape) not in allowed:
        shapes = " or ".join(str(shape) for shape in allowed)
        raise ValueError(f"{name} must be {shapes} to fit ids, got {tuple(column.shape)}")
