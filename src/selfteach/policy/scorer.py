"""Scoring given responses: the final hidden states that predict the written tokens, and never a logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfteach.policy.economy import Economy, economy_of
from selfteach.policy.loading import Policy, bare, body
from selfteach.policy.passes import Laid, Padded, Row, row_of
from selfteach.policy.sharding import as_many, passing


class Scorer(Protocol):
    """Whatever gives the final hidden states of responses: a module in this process, or a server."""

    def states(
        self,
        policy: Policy,
        contexts: list[list[int]],
        responses: list[list[int]],
        written: list[list[bool]] | None = None,
    ) -> Float[Tensor, "P d"]: ...


@dataclass(frozen=True)
class LocalScorer:
    """Scores in this process, in the policy's precision; with gradient where the caller's mode has it on.

    ``module``: the policy's ``ResponseScorer`` as a trainer wrapped it (DDP, FSDP); none: a bare one. All passes are
    made within one call of it. ``economy``: how rows are laid out; none: as the model allows.
    """

    module: nn.Module | None = None
    economy: Economy | None = None

    def states(
        self,
        policy: Policy,
        contexts: list[list[int]],
        responses: list[list[int]],
        written: list[list[bool]] | None = None,
    ) -> Float[Tensor, "P d"]:
        """[P, d] states that predict the ``written`` tokens (none: all) of the responses, row after row.

        They are those after the final norm, which the output head turns into logits (``selfteach.policy.head``).
        Contexts that several rows have in common are computed once, and what follows a row's last written token not at
        all. Raises ValueError for an empty context, since nothing would predict the first token.
        """
        masks = [None] * len(responses) if written is None else written
        rows = [row_of(*one) for one in zip(contexts, responses, masks, strict=True)]
        asked = [i for i, row in enumerate(rows) if row.steps]
        network, device = bare(policy.model), policy.model.device
        rows = [rows[i] for i in asked]
        economy = self.economy or economy_of(policy.model)
        laid = economy.laid(rows, policy.renderer.pad_id, device) if rows else []
        passes = sum(one.passes for _, one in laid)
        most = as_many(network, passes)
        if not most:
            width = network.config.get_text_config().hidden_size
            return torch.zeros(0, width, dtype=policy.model.dtype, device=device)
        # Layers of a split model are gathered by all processes together: one that has less to do makes passes of
        # one token that nobody wants.
        idle = [Padded.of([Row([policy.renderer.pad_id], [], [])], 0, device)] * (most - passes)
        with policy.arithmetic():
            scorer = self.module or ResponseScorer(policy.model)
            found: Tensor = scorer(*(one for _, one in laid), *idle)
        return in_order(found, [i for held, _ in laid for i in held], [len(row.steps) for row in rows])


def in_order(states: Float[Tensor, "P d"], rows: list[int], counts: list[int]) -> Float[Tensor, "P d"]:
    """States of ``rows`` one after the other, ``counts[i]`` of row i → the same with rows in rising order."""
    if rows == sorted(rows):
        return states
    begins, at = [0] * len(rows), 0
    for i in rows:
        begins[i] = at
        at += counts[i]
    index = [begin + n for begin, count in zip(begins, counts, strict=True) for n in range(count)]
    return states.index_select(0, torch.tensor(index, device=states.device))


class ResponseScorer(nn.Module):
    """A policy as a function from rows laid out to the states [P, d] of their written tokens, layout after layout: the
    module a trainer wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *laid: Laid) -> Float[Tensor, "P d"]:
        found: Tensor = passing(bare(self.model), self._states, *laid)
        return found

    def _states(self, *laid: Laid) -> Float[Tensor, "P d"]:
        network = body(self.model)
        found = [one.states(network) for one in laid]
        return found[0] if len(found) == 1 else torch.cat(found)
