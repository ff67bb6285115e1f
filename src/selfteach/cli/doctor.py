"""``selfteach doctor RECIPE …``: the preflight of the same command with ``train``, without training."""

from __future__ import annotations

from collections.abc import Sequence

from selfteach.api.progress import Lines
from selfteach.cli.train import configured
from selfteach.training.launch import learner_of


def command(words: Sequence[str]) -> int:
    config, _ = configured(words, command="doctor")
    learner_of(config, Lines()).preflight()
    print("ready to train")
    return 0
