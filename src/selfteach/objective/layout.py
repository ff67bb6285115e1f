"""Where the scored positions of a micro-batch stand in the whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """P written positions, in row order: ``row`` and ``step`` [P] long are their places in the whole batch's [N, T]."""

    row: Int[Tensor, "P"]
    step: Int[Tensor, "P"]

    def __post_init__(self) -> None:
        if self.row.dim() != 1 or self.row.shape != self.step.shape:
            raise ValueError(
                f"row and step must be [P], got {tuple(self.row.shape)} and {tuple(self.step.shape)}"
            )

    def __len__(self) -> int:
        return len(self.row)

    def at(self, column: Shaped[Tensor, "N T"]) -> Shaped[Tensor, "P"]:
        """[N, T] → [P]: the column's values at these positions."""
        return column[self.row, self.step]

    def spread(
        self, values: Float[Tensor, "P *rest"], shape: tuple[int, ...] | torch.Size
    ) -> Float[Tensor, "N T *rest"]:
        """[P, …] → [N, T, …] with ``shape`` = (N, T): the values at their places, NaN elsewhere."""
        column = values.new_full((*shape, *values.shape[1:]), torch.nan)
        column[self.row, self.step] = values
        return column
