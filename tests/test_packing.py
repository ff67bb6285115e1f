"""Rows without padding under flash attention: an attention function of the same contract stands for its kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import (
    AttentionMaskInterface,
    find_packed_sequence_indices,
    flash_attention_mask,
)

from families import FAMILIES, family_model
from selfteach.policy.economy import PLAIN, Economy, economy_of
from selfteach.policy.loading import Policy
from selfteach.policy.prefix import packs
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.scorer import LocalScorer
from tiny import tiny_tokenizer

NAME = "flash_of_tests"
PACKED = Economy(share=False, pack=True, fixed=0)
NOT_PACKED = {
    "bamba", "biogpt", "bloom", "codegen", "falcon", "falcon_h1", "falcon_mamba", "gpt_neo", "gptj", "granitemoehybrid",
    "jamba", "lfm2", "mamba", "mamba2", "minimax", "mpt", "qwen3_next", "recurrent_gemma", "rwkv", "stablelm", "xglm",
    "zamba2",
}  # fmt: skip
"""Families with a state, without positions, or that do not hand to their attention all that the model is handed."""
WITHOUT_FLASH = {"llama4_text"}
"""A family that transformers has no flash attention for, whatever else it allows."""
QUICK = {"llama", "gemma3_text", "nemotron", "persimmon", "stablelm", "mamba", "gptj"}
"""Of the default set: a window; positions alone that arrive; where rows begin alone; and what is refused."""


def like_flash(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal from the last key back; of rows in one it knows what it is told, by either argument, and else nothing."""
    repeats, (asked, held) = query.shape[1] // key.shape[1], (query.shape[2], key.shape[2])
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    own, other = torch.arange(asked)[:, None] + held - asked, torch.arange(held)[None]
    seen = (other <= own) & (other > own - (sliding_window or held + 1))
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, -held:].bool()
    elif asked == held:
        row = None if position_ids is None else find_packed_sequence_indices(position_ids)
        if cu_seq_lens_q is not None:
            row = torch.searchsorted(cu_seq_lens_q.long(), torch.arange(asked), right=True)[None]
        if row is not None:
            seen = seen & (row[:, None, :, None] == row[:, None, None, :])
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    return (scores.masked_fill(~seen, -1e30).softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, like_flash)
AttentionMaskInterface.register(NAME, flash_attention_mask)


def policy_of(name: str) -> Policy:
    transformers.utils.logging.set_verbosity_error()
    model, tokenizer = family_model(name), tiny_tokenizer()
    model.config._attn_implementation_internal = NAME
    return Policy(name, model, tokenizer, ChatRenderer(tokenizer), len(tokenizer), room_of(model))


def rows() -> tuple[list[list[int]], list[list[int]]]:
    def drawn(count: int, seed: int) -> list[int]:
        return torch.randint(5, 90, (count,), generator=torch.Generator().manual_seed(seed)).tolist()

    contexts = [drawn(length, length) for length in (20, 9, 1)]
    return [contexts[i] for i in (0, 1, 0, 2, 1)], [drawn(length, 50 + length) for length in (4, 1, 9, 6, 3)]


def marked(names: object) -> list[object]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]  # type: ignore[call-overload]


@torch.no_grad()
@pytest.mark.parametrize("name", marked(FAMILIES.keys() - NOT_PACKED - WITHOUT_FLASH))
def test_rows_in_one_stay_apart_wherever_they_are_packed(name: str) -> None:
    policy = policy_of(name)
    assert economy_of(policy.model).pack
    expected = LocalScorer(economy=PLAIN).states(policy, *rows())
    for economy in (PACKED, Economy(share=True, pack=True, fixed=0)):
        found = LocalScorer(economy=economy).states(policy, *rows())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_family_that_does_not_say_where_rows_begin_would_mix_them_and_is_not_packed() -> None:
    policy = policy_of("stablelm")
    assert not packs(policy.model)
    expected = LocalScorer(economy=PLAIN).states(policy, *rows())
    policy.model._supports_attention_backend = True
    plain = {"position_ids": None, "cu_seq_lens_q": None}
    AttentionInterface.register(NAME, lambda *args, **kwargs: like_flash(*args, **{**kwargs, **plain}))
    try:
        assert packs(policy.model)
        mixed = LocalScorer(economy=PACKED).states(policy, *rows())
    finally:
        AttentionInterface.register(NAME, like_flash)
    assert (mixed - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", marked(NOT_PACKED))
def test_families_that_would_mix_rows_are_not_packed(name: str) -> None:
    assert not packs(policy_of(name).model)
