"""Scoring given responses: the final hidden states that predict the written tokens, and never a logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfteach.policy.loading import Policy, bare, body


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

    ``module``: the policy's ``ResponseScorer`` as a trainer wrapped it (DDP, FSDP); none: a bare one.
    """

    module: nn.Module | None = None

    def states(
        self,
        policy: Policy,
        contexts: list[list[int]],
        responses: list[list[int]],
        written: list[list[bool]] | None = None,
    ) -> Float[Tensor, "P d"]:
        """[P, d] states that predict the ``written`` tokens (none: all) of the responses, row after row.

        They are those after the final norm, which the output head turns into logits (``selfteach.policy.head``).
        Raises ValueError for an empty context, since nothing would predict the first token.
        """
        if not responses:
            return next(policy.model.parameters()).new_zeros(
                0, bare(policy.model).config.get_text_config().hidden_size
            )
        inputs = pack(contexts, responses, policy.renderer.pad_id, policy.model.device)
        wanted = inputs.mask if written is None else _padded(written, 0).bool().to(inputs.mask.device)
        with policy.arithmetic():
            hidden = score(self.module or ResponseScorer(policy.model), inputs)
        return hidden[wanted]


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
    return ScoringInputs(
        input_ids=_padded(rows, pad_id).to(device),
        attention_mask=_padded([[1] * len(row) for row in rows], 0).to(device),
        index=torch.minimum(starts[:, None] - 1 + steps, last[:, None]).to(device),
        ids=_padded(responses, pad_id).to(device),
        mask=(steps < lengths[:, None]).to(device),
    )


def _padded(rows: list[list[int]] | list[list[bool]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


class ResponseScorer(nn.Module):
    """A policy as a function from packed rows to hidden states [N, T, d]: the module a trainer wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "N L"], attention_mask: Int[Tensor, "N L"], index: Int[Tensor, "N T"]
    ) -> Float[Tensor, "N T d"]:
        hidden: Tensor = body(self.model)(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        )[0]
        return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def score(scorer: nn.Module, inputs: ScoringInputs) -> Float[Tensor, "N T d"]:
    """The hidden states [N, T, d] that predict the response tokens; ``scorer`` may be wrapped (DDP, FSDP)."""
    hidden: Float[Tensor, "N T d"] = scorer(inputs.input_ids, inputs.attention_mask, inputs.index)
    return hidden
