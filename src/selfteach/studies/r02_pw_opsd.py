"""PW-OPSD: weights that rise along the rollout."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.r01_opsd import KNOBS
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop("table", KNOBS)

STUDY = Study(
    method="pw-opsd",
    claims=(
        Claim(
            says="Position weights raise accuracy over uniform ones by 0.4 points on average (Qwen3-4B, Avg@12)",
            variants={
                "weighted": "pw-opsd --task tutor --steps 80",
                "uniform": "pw-opsd --task tutor --steps 80 --w-min 1",
            },
            higher="weighted",
            lower="uniform",
        ),
    ),
)
