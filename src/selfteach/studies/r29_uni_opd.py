"""Uni-OPD: a teacher's signal that must rank right answers above wrong ones."""

from __future__ import annotations

from selfteach.studies.grpo import ROWS
from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {**SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "per_prompt": 8, "steps": 150, "prompts": 8},
)

UNI = f"uni-opd --task tutor {SLOW} {ROWS}"

STUDY = Study(
    method="uni-opd",
    model=UNSURE,
    claims=(
        Claim(
            says="Margin and balance beat plain distillation (math +1.5 on average, second hand)",
            variants={"uni-opd": UNI, "opd": f"{UNI} --shift none --balance none"},
            higher="uni-opd",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
