"""OPSD on the data's own answers, whatever the command line says of OPSD: every process scores the same tokens.

python off_policy.py --out FOLDER --steps 3 …
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace

from selfteach.recipes.writer import Reference, Writer

from selfteach.cli.progress import Silent
from selfteach.cli.train import configured
from selfteach.recipes.r01_opsd import OPSD
from selfteach.train.launch import launch


@dataclass(frozen=True)
class OffPolicy(OPSD):
    """OPSD whose tokens are the field ``worked``; processes sample from streams of their own, references are equal."""

    @property
    def writer(self) -> Writer:
        return Reference("worked")


if __name__ == "__main__":
    config, _ = configured(["opsd", *sys.argv[1:]])
    recipe = OffPolicy(**{f.name: getattr(config.recipe, f.name) for f in fields(OPSD)})
    launch(replace(config, recipe=recipe), Silent, Silent)
