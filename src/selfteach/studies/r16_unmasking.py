"""Unmasking: the token gate."""

from __future__ import annotations

from selfteach.studies.laptop import FAST, FEW, UNSURE, Laptop
from selfteach.studies.r01_opsd import KNOBS
from selfteach.studies.study import AREA, Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop("tutor", {**KNOBS, "nodes": 2, "candidates": 3, "completions": 4, "steps": 60, "prompts": 32})

GATED = f"unmasking --task tutor {FAST} {FEW}"

STUDY = Study(
    method="unmasking",
    model=UNSURE,
    claims=(
        Claim(
            says="Distillation helps where its gradient agrees with that of success: nodes that agree are worth more "
            "than all nodes",
            variants={"aligned": GATED, "nodes": f"{GATED} --gate nodes"},
            higher="aligned",
            lower="nodes",
            metric=AREA,
            tuned_by=AREA,
            looked="a quarter of the difference that counts as one elsewhere (0.03); the frozen teacher reads a "
            "solution without fault, so that there may be no harm in the nodes that are left out",
        ),
        Claim(
            says="and leaving out those that disagree does no harm to distillation everywhere",
            variants={
                "unharmed": f"{GATED} --gate unharmed --mean-over tokens",
                "everywhere": f"opsd --task tutor {FAST} {FEW} --mean-over tokens",
            },
            higher="unharmed",
            lower="everywhere",
            metric=AREA,
            tuned_by=AREA,
            rule=Within(0.05),
            withdrawn="in this world no node that is looked at does harm: nothing is left out, and both sides are "
            "the same run",
        ),
    ),
)
