"""EffOPD: leaps along the way that the weights went."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FEW, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "estimator": "full", "lr": 3e-4, "steps": 100,
        "prompts": 64, "validation": 32,
    },
)  # fmt: skip

EFFOPD = f"effopd --task tutor --lr 1e-3 {FEW}"
OPD = f"exopd --reward-scale 1 --task tutor --lr 1e-3 {FEW}"

STUDY = Study(
    method="effopd",
    model=UNSURE,
    claims=(
        Claim(
            says="With leaps distillation is about three times as fast: after as few steps it is further "
            "(what is validated on the way is not counted)",
            variants={"effopd": f"{EFFOPD} --steps 6", "opd": f"{OPD} --steps 6"},
            higher="effopd",
            lower="opd",
        ),
        Claim(
            says="and it ends where plain distillation ends after three times as many steps",
            variants={"effopd": f"{EFFOPD} --steps 6", "opd, longer": f"{OPD} --steps 18"},
            higher="effopd",
            lower="opd, longer",
            rule=Within(0.05),
        ),
    ),
)
