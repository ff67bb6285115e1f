"""What eats a phase: its time by kind of operation, from torch's profiler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("products", ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "addmv", "mv", "mkldnn_linear")),
    ("attention", ("scaled_dot_product", "_flash_attention", "_efficient_attention", "_fused_sdp")),
    (
        "copies",
        ("cat", "copy_", "clone", "index", "gather", "scatter", "_to_copy", "repeat", "stack", "embedding"),
    ),
    (
        "softmax and draws",
        ("softmax", "log_softmax", "logsumexp", "multinomial", "exponential", "sort", "topk"),
    ),
)
ELSE, BETWEEN = "element-wise and other", "between operations"
NAMES = (*(name for name, _ in KINDS), ELSE, BETWEEN)
"""``BETWEEN``: Python, dispatch, and what the profiler itself takes."""


def kind_of(operation: str) -> str:
    """The kind that an operation's name says: ``aten::addmm`` is a product."""
    name = operation.rsplit("::", 1)[-1].strip("_").removesuffix("_backward").strip("_")
    for kind, words in KINDS:
        if any(name == word.strip("_") or name.startswith(word.strip("_") + "_") for word in words):
            return kind
    return ELSE


def shares(operations: Iterable[tuple[str, float]], total: float) -> dict[str, float]:
    """(operation, its own seconds) → the share of each kind in ``total`` seconds; what is left lies between them."""
    found = dict.fromkeys(NAMES, 0.0)
    for name, seconds in operations:
        found[kind_of(name)] += seconds / total
    found[BETWEEN] = max(0.0, 1.0 - sum(found.values()))
    return found


def started() -> Any:
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True)
    profiler.start()
    return profiler


def stopped(profiler: Any) -> list[tuple[str, float]]:
    """The operations that were called since, with the seconds that each took by itself."""
    profiler.stop()
    return [(one.key, one.self_cpu_time_total / 1e6) for one in profiler.key_averages() if "::" in one.key]
