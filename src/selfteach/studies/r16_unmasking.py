"""Unmasking: the token gate."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.r01_opsd import KNOBS
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop("tutor", {**KNOBS, "nodes": 2, "candidates": 3, "completions": 4, "steps": 60, "prompts": 32})

GATED = "unmasking --task tutor --steps 40"

STUDY = Study(
    method="unmasking",
    claims=(
        Claim(
            says="Distillation helps where its gradient agrees with that of success: nodes that agree are worth more "
            "than all nodes",
            variants={"aligned": GATED, "nodes": f"{GATED} --gate nodes"},
            higher="aligned",
            lower="nodes",
        ),
        Claim(
            says="and leaving out those that disagree does no harm to distillation everywhere",
            variants={
                "unharmed": f"{GATED} --gate unharmed --mean-over tokens",
                "everywhere": "opsd --task tutor --steps 40 --prompts 32 --mean-over tokens",
            },
            higher="unharmed",
            lower="everywhere",
            rule=Within(0.05),
        ),
    ),
)
