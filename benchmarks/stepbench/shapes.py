"""What a benchmarked step is: how many prompts, rollouts and tokens, and of which model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["text", "table", "words"]


@dataclass(frozen=True)
class Shape:
    """``prompts`` × ``group`` rows of exactly ``tokens`` new tokens; ``micro_batch`` rows are scored at once, on
    every side. ``model``: "given" (``--model``), "arena", or the name of random weights in ``RANDOM``. ``source``:
    who writes the prompts (``workload.py``). ``lr``: AdamW's learning rate."""

    name: str
    prompts: int
    group: int
    tokens: int
    micro_batch: int
    model: str = "given"
    source: Source = "text"
    lr: float = 1e-5
    prompt_words: int = 64
    hint_words: int = 64

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def generated(self) -> int:
        """Tokens that every side must have generated in every step."""
        return self.rows * self.tokens

    @property
    def told(self) -> str:
        """As a table's title says it."""
        rollouts = f" × {self.group} rollouts" if self.group > 1 else ""
        return f"{self.prompts} prompts{rollouts} × {self.tokens:,} tokens"


def qwen(name: str, model: str, group: int, tokens: int) -> Shape:
    return Shape(name, 1, group, tokens, 1, model, "words", 1e-6, 512, 512)


SHAPES = {
    one.name: one
    for one in (
        Shape("arena", 64, 1, 30, 64, "arena", "table", 3e-4),
        Shape("8x64", 8, 1, 64, 8),
        Shape("4x8x128", 4, 8, 128, 8),
        Shape("8x512", 8, 1, 512, 2),
        qwen("qwen3-0.6b-1k", "qwen3-0.6b", 8, 1024),
        qwen("qwen3-0.6b-4k", "qwen3-0.6b", 8, 4096),
        qwen("qwen3-1.7b-1k", "qwen3-1.7b", 8, 1024),
        qwen("qwen3-1.7b-4k", "qwen3-1.7b", 8, 4096),
    )
}
ON_CPU = ("arena", "8x64", "4x8x128", "8x512")

_QWEN: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40_960,
}
RANDOM: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {**_QWEN, "hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": {**_QWEN, "hidden_size": 2048, "intermediate_size": 6144},
}
"""Models of these sizes with random weights: configs as transformers takes them."""


def parsed(text: str) -> Shape:
    """A shape by its name, or ``PROMPTSxGROUPxTOKENS[:MICRO]`` of the given model. ValueError for anything else."""
    if text in SHAPES:
        return SHAPES[text]
    sizes, _, micro = text.partition(":")
    parts = sizes.split("x")
    if len(parts) != 3 or not all(one.isdigit() and int(one) > 0 for one in [*parts, micro or "1"]):
        raise ValueError(
            f"no shape {text!r}: one of {', '.join(SHAPES)}, or PROMPTSxGROUPxTOKENS[:MICRO] such as 4x8x128:8"
        )
    prompts, group, tokens = map(int, parts)
    rows = prompts * group
    size = int(micro or min(8, rows))
    if rows % size:
        raise ValueError(f"shape {text!r}: {rows} rows cannot be cut into micro-batches of {size}")
    return Shape(text, prompts, group, tokens, size)
