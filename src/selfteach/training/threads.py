"""How many threads a model on a CPU is worth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SMALL = 2_000_000
"""Weights below which a pass's operations are so short that waking a second thread takes longer than it saves: while
sampling up to 1 M, while updating up to 0.5 M at least (64 rows, 2 cores; results/targets.md)."""
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user says how many."""
AT_FIRST = torch.get_num_threads()


def threads_of(model: nn.Module) -> int | None:
    """1 for a small model on a CPU; None, which is torch's or the user's own choice, for any other, and wherever the
    user has chosen (``CHOSEN``, or ``torch.set_num_threads``)."""
    if torch.get_num_threads() != AT_FIRST or any(os.environ.get(name) for name in CHOSEN):
        return None
    weights = list(model.parameters())
    small = sum(one.numel() for one in weights) < SMALL and all(one.device.type == "cpu" for one in weights)
    return 1 if small and AT_FIRST > 1 else None


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Within it torch computes on so many threads (None: as many as before)."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
