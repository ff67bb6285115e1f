"""How many threads a model on a CPU is worth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import psutil
import torch
from torch import nn

from selfteach.task.arena import resolve_model

SMALL = 2_000_000
"""Weights below which a pass's operations are so short that waking a second thread takes longer than it saves: while
sampling up to 1 M, while updating up to 0.5 M at least (64 rows, 2 cores; results/targets.md)."""
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables by which a user says how many."""


def threads_of(*models: nn.Module) -> int | None:
    """1 where all ``models`` together are small and on a CPU; None, which is torch's or the user's own choice,
    otherwise, and wherever the user has chosen: by ``CHOSEN``, or a ``torch.set_num_threads`` other than torch's own.
    """
    now = torch.get_num_threads()
    if now == 1 or now not in torchs_own() or any(os.environ.get(name) for name in CHOSEN):
        return None
    weights = [*chain.from_iterable(one.parameters() for one in models)]
    small = sum(one.numel() for one in weights) < SMALL and all(one.device.type == "cpu" for one in weights)
    return 1 if small else None


def small_folder(model: str) -> bool:
    """Whether a model that is not loaded yet is small, by its files; of one that is no folder nobody knows."""
    folder = Path(resolve_model(model))
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return bool(sizes) and sum(sizes) < 4 * SMALL


def torchs_own() -> set[int | None]:
    """How many threads torch takes by itself: one for each core that it may use, as it counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {allowed, os.cpu_count(), psutil.cpu_count(logical=False)}


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
