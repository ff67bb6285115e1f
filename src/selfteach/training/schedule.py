"""Learning-rate schedules by name."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler


def scheduled(optimizer: torch.optim.Optimizer, schedule: str, warmup: int, steps: int) -> LRScheduler:
    """A scheduler of transformers: "constant", "linear" (to 0 at ``steps``) or "cosine" (half a wave to 0), after
    ``warmup`` steps of linear growth from 0. Step i = 0, 1 … of the warm-up has i / ``warmup`` of the full rate.

    transformers' own "constant" ignores the warm-up without a word, hence this function.
    """
    name = "constant_with_warmup" if schedule == "constant" and warmup else schedule
    made: LRScheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return made
