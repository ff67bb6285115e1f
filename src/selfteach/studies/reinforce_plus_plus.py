"""REINFORCE++: advantages standardized over the batch."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop("table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.001, "steps": 300, "prompts": 64})

REINFORCE = "reinforce-plus-plus --steps 200"

STUDY = Study(
    method="reinforce-plus-plus",
    task="table",
    claims=(
        Claim(
            says="Standardizing over the batch, after the group's mean is off, beats standardizing in each group",
            variants={
                "batch": f"{REINFORCE} --baseline group --per-prompt 8 --prompts 8 --kl 0",
                "group": "grpo --steps 200 --mean-over tokens",
            },
            higher="batch",
            lower="group",
        ),
    ),
)
