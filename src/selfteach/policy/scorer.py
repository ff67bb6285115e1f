"""Scoring given responses: the final hidden states that predict the written tokens, and never a logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfteach.policy.economy import Economy, economy_of
from selfteach.policy.loading import Policy, bare, body
from selfteach.policy.passes import Laid, right, row_of


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
        if not asked:
            width = bare(policy.model).config.get_text_config().hidden_size
            return next(policy.model.parameters()).new_zeros(0, width)
        rows = [rows[i] for i in asked]
        economy = self.economy or economy_of(policy.model)
        laid = economy.laid(rows, policy.renderer.pad_id, policy.model.device)
        with policy.arithmetic():
            found: Tensor = (self.module or ResponseScorer(policy.model))(*(one for _, one in laid))
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


@dataclass(frozen=True)
class ScoringInputs:
    """N right-padded rows of prompt + response, and where their responses are.

    ``input_ids``, ``attention_mask`` [N, L]; ``index`` [N, T] the place whose hidden state predicts response
    token t; ``ids`` [N, T] the response tokens; ``mask`` [N, T] True where there is one.
    """

    input_ids: Int[Tensor, "N L"]
    attention_mask: Int[Tensor, "N L"]
    index: Int[Tensor, "N T"]
    ids: Int[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]

    def states(self, network: Any) -> Float[Tensor, "P d"]:
        """[P, d] of the places where ``mask`` is True, row after row."""
        hidden: Tensor = network(
            input_ids=self.input_ids, attention_mask=self.attention_mask, use_cache=False
        )[0]
        return hidden.gather(1, self.index[..., None].expand(-1, -1, hidden.shape[-1]))[self.mask]


def pack(
    prompts: list[list[int]],
    responses: list[list[int]],
    pad_id: int,
    device: torch.device | str | None = None,
) -> ScoringInputs:
    """Lay prompts and responses out for one forward pass.

    Response token t stands at len(prompt) + t and is predicted one place before it. Raises ValueError for an
    empty prompt, since nothing would predict the first token.
    """
    if not all(prompts):
        raise ValueError("prompts: each needs at least one token, to predict the first response token from")
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    steps = torch.arange(max(map(len, responses)))
    lengths = torch.tensor([len(response) for response in responses])
    starts = torch.tensor([len(prompt) for prompt in prompts])
    last = starts + lengths - 1
    width = max(map(len, rows))
    return ScoringInputs(
        input_ids=right(rows, pad_id, width).to(device),
        attention_mask=right([[1] * len(row) for row in rows], 0, width).to(device),
        index=torch.minimum(starts[:, None] - 1 + steps, last[:, None]).to(device),
        ids=right(responses, pad_id, len(steps)).to(device),
        mask=(steps < lengths[:, None]).to(device),
    )


class ResponseScorer(nn.Module):
    """A policy as a function from rows laid out to the states [P, d] of their written tokens, layout after layout: the
    module a trainer wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *laid: Laid) -> Float[Tensor, "P d"]:
        network = body(self.model)
        found = [one.states(network) for one in laid]
        return found[0] if len(found) == 1 else torch.cat(found)


def score(scorer: nn.Module, inputs: ScoringInputs) -> Float[Tensor, "N T d"]:
    """Hidden states [N, T, d] that predict the response tokens, 0 where there is none; ``scorer`` may be wrapped."""
    found: Float[Tensor, "P d"] = scorer(inputs)
    return found.new_zeros(*inputs.mask.shape, found.shape[-1]).index_put(
        inputs.mask.nonzero(as_tuple=True), found
    )
