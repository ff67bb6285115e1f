"""OPSD on the data's own answers, whatever the command line says of OPSD: every process scores the same tokens.

python off_policy.py --out FOLDER --steps 3 …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from selfteach.api.progress import Silent
from selfteach.cli.train import configured
from selfteach.recipes.r01_opsd import OPSD
from selfteach.recipes.tools import Prompt, Tools
from selfteach.task.trajectory import Trajectory
from selfteach.training.config import TrainConfig
from selfteach.training.launch import launch


@dataclass(frozen=True)
class OffPolicy(OPSD):
    """OPSD whose tokens are the field ``worked``; processes sample from streams of their own, references are equal."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.quote(prompts, "worked")


def of_kind(kind: type[OPSD], words: Sequence[str], **more: Any) -> TrainConfig:
    """What the words say of OPSD, said of another kind of it."""
    config, _ = configured(["opsd", *words])
    return replace(
        config, recipe=kind(**{f.name: getattr(config.recipe, f.name) for f in fields(OPSD)}, **more)
    )


if __name__ == "__main__":
    launch(of_kind(OffPolicy, sys.argv[1:]), Silent, Silent)
