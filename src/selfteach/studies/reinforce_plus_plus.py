"""REINFORCE++: advantages standardized over the batch."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop("table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.001, "steps": 300, "prompts": 64})

FOURS = "--per-prompt 4 --prompts 4"
"""Of two groups batch and group have nearly one scale."""
REINFORCE = f"reinforce-plus-plus {SLOW} {FOURS} {ADAMS}"

STUDY = Study(
    method="reinforce-plus-plus",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Standardizing over the batch, after the group's mean is off, beats standardizing in each group",
            variants={
                "batch": f"{REINFORCE} --baseline group --kl 0",
                "group": f"grpo {SLOW} {FOURS} {ADAMS} --mean-over tokens",
            },
            higher="batch",
            lower="group",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
