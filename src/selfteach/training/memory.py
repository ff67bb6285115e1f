"""How much memory a run has needed."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> int:
    """Bytes: the accelerator's peak allocation, or the process's peak resident set on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
