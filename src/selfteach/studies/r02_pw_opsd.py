"""PW-OPSD: weights that rise along the rollout."""

from __future__ import annotations

from selfteach.studies.laptop import FAST, FEW, UNSURE, Laptop
from selfteach.studies.r01_opsd import KNOBS
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop("table", KNOBS)

WEIGHTED = f"pw-opsd --task tutor {FAST} {FEW}"

STUDY = Study(
    method="pw-opsd",
    model=UNSURE,
    claims=(
        Claim(
            says="Position weights raise accuracy over uniform ones by 0.4 points on average (Qwen3-4B, Avg@12)",
            variants={
                "weighted": WEIGHTED,
                "uniform": f"{WEIGHTED} --w-min 1",
            },
            higher="weighted",
            lower="uniform",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
