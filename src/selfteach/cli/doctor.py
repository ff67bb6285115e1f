"""``selfteach doctor RECIPE …``: what the same command with ``train`` would refuse, without training."""

from __future__ import annotations

from collections.abc import Sequence

from selfteach.api.progress import Lines
from selfteach.cli.train import resolved
from selfteach.training.launch import rehearse


def command(words: Sequence[str]) -> int:
    config, where = resolved(words, command="doctor")
    rehearse(config, Lines(), where.out, resume=where.resume)
    print("ready to train")
    return 0
