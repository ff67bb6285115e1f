"""A small denoiser of masked sequences: transformers' BERT, which reads both ways, without dropout."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from selfteach.training.randomness import seeded

HEADS = 4


class Denoiser(nn.Module):
    """Logits of ``vocabulary`` tokens at each of ``length`` places; ``mask_token_id`` (= ``vocabulary``) is one more
    token that is read and never said. Its initial weights are a function of ``seed`` and the sizes."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, *, seed: int = 0) -> None:
        super().__init__()
        self.mask_token_id = vocabulary
        config = BertConfig(
            vocab_size=vocabulary + 1,
            max_position_embeddings=length,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=HEADS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=None,
        )
        with seeded(seed):
            self.bert = BertForMaskedLM(config)

    def forward(self, tokens: Int[Tensor, "n T"]) -> Float[Tensor, "n T V"]:
        found: Tensor = self.bert(input_ids=tokens).logits
        return found[..., : self.mask_token_id]

    def masked_copies(
        self, tokens: Int[Tensor, "n T"], places: Int[Tensor, "n L"], masked: Bool[Tensor, "n L"]
    ) -> Int[Tensor, "n T"]:
        """The sequences with those of ``places`` masked that ``masked`` selects."""
        shown = tokens.gather(1, places).masked_fill(masked, self.mask_token_id)
        return tokens.scatter(1, places, shown)

    def at(self, tokens: Int[Tensor, "n T"], places: Int[Tensor, "n L"]) -> Float[Tensor, "n L V"]:
        """The logits at ``places``."""
        logits: Tensor = self(tokens)
        return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))
