"""What the objective sees: columns of the whole batch, and everybody's scores of some of its positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from selfteach.objective.columns import Columns
from selfteach.objective.head import IDENTITY, Head
from selfteach.objective.layout import Layout

STUDENT = "student"


@dataclass(frozen=True)
class Scored:
    """One role's scores of P positions: ``states`` [P, d] and the head that makes logits of them.

    ``states[i]`` is the state that *predicts* the token at position i; with the identity head it holds logits.
    ``features`` [P, f]: further activations there, which ``Hidden`` terms compare. What requires a gradient gets one
    from the terms that train the role.
    """

    states: Float[Tensor, "*P d"]
    head: Head = IDENTITY
    features: Float[Tensor, "*P f"] | None = None

    @property
    def width(self) -> int:
        """Logits of a position."""
        return self.states.shape[-1] if self.head.weight is None else self.head.weight.shape[0]

    def rows(self, some: Callable[[Shaped[Tensor, "*P ..."]], Shaped[Tensor, "*p ..."]]) -> Scored:
        """The scores of some positions, which ``some`` takes out of a tensor [P, …]."""
        features = None if self.features is None else some(self.features)
        return replace(self, states=some(self.states), features=features)


@dataclass(frozen=True)
class ScoredBatch:
    """Whole-batch columns, and the roles' scores of one micro-batch: the positions of ``layout``.

    "student" is one of the ``roles``. Where a role saw nothing (``Columns.available``) its states may be anything, NaN
    included: they are never read. Raises ValueError naming the role whose tensors do not fit.
    """

    columns: Columns
    roles: Mapping[str, Scored]
    layout: Layout

    def __post_init__(self) -> None:
        if STUDENT not in self.roles:
            raise ValueError(f"roles must hold {STUDENT!r}, got {sorted(self.roles)}")
        for name, scored in self.roles.items():
            for kind, tensor in (("states", scored.states), ("features", scored.features)):
                if tensor is not None and (tensor.dim() != 2 or len(tensor) != len(self.layout)):
                    raise ValueError(
                        f"{kind} of {name!r} must be [{len(self.layout)}, d], a row for each position of the layout, "
                        f"got {tuple(tensor.shape)}"
                    )

    @classmethod
    def padded(
        cls, columns: Columns, roles: Mapping[str, Scored], rows: Int[Tensor, "n"] | None = None
    ) -> ScoredBatch:
        """A batch from states and features [n, t, …] that still carry the padding.

        ``rows`` [n] long: which rows of the whole batch these are (None: all of them). t may fall short of T where
        these rows wrote nothing beyond it. ValueError naming the role whose shape does not fit.
        """
        written = columns.mask if rows is None else columns.mask[rows]
        n, t = written.shape
        for name, scored in roles.items():
            for kind, tensor in (("states", scored.states), ("features", scored.features)):
                if tensor is not None:
                    t = min(t, _length(f"{kind} (or logits) of {name!r}", tensor, n, t))
        if written[:, t:].any():
            raise ValueError(f"states end at position {t}, but rows of the batch wrote beyond it")
        place = written[:, :t].nonzero(as_tuple=True)
        whole = place[0] if rows is None else rows.to(place[0].device)[place[0]]

        def flat(tensor: Tensor) -> Tensor:
            here = (place[0] * tensor.shape[1] + place[1]).to(tensor.device)
            return tensor.flatten(0, 1).index_select(0, here)

        return cls(
            columns,
            {
                name: replace(
                    scored,
                    states=flat(scored.states),
                    features=None if scored.features is None else flat(scored.features),
                )
                for name, scored in roles.items()
            },
            Layout(whole, place[1]),
        )

    def spread(self, values: Float[Tensor, "P *rest"]) -> Float[Tensor, "N T *rest"]:
        """[P, …] → [N, T, …] over the whole batch, NaN outside this micro-batch's positions."""
        return self.layout.spread(values, self.columns.ids.shape)

    @property
    def device(self) -> torch.device:
        return self.roles[STUDENT].states.device

    @property
    def dtype(self) -> torch.dtype:
        """What is summed in: the student's type, float32 at least."""
        return accumulation(self.roles[STUDENT].states.dtype)


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """Half precision adds up in float32, the others in themselves."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _length(name: str, tensor: Tensor, n: int, t: int) -> int:
    if tensor.dim() != 3 or tensor.shape[0] != n or tensor.shape[1] > t:
        raise ValueError(f"{name} must be [{n}, {t}, d] to fit ids, got {tuple(tensor.shape)}")
    return tensor.shape[1]
