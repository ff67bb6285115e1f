"""The order in which a finite set of problems is trained on: all of them an epoch, in a new order each time."""

from __future__ import annotations

import random
from array import array
from functools import lru_cache


def in_epochs(index: int, count: int, seed: int) -> int:
    """Which of ``count`` problems comes at this place of training (from 0): it depends on these three alone."""
    epoch, position = divmod(index, count)
    return order(seed, epoch, count)[position]


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> array[int]:
    found = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(found)
    return array("l", found)
