"""EffOPD: leaps along the way that the weights went."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "estimator": "full", "lr": 3e-4, "steps": 100,
        "prompts": 64, "validation": 32,
    },
)  # fmt: skip

EFFOPD = "effopd --task tutor --lr 3e-4 --steps 20"
OPD = "exopd --reward-scale 1 --task tutor --lr 3e-4"

STUDY = Study(
    method="effopd",
    claims=(
        Claim(
            says="With leaps distillation is about three times as fast: after as few steps it is further",
            variants={"effopd": EFFOPD, "opd": f"{OPD} --steps 20"},
            higher="effopd",
            lower="opd",
        ),
        Claim(
            says="and it ends where plain distillation ends after three times as many steps",
            variants={"effopd": EFFOPD, "opd, longer": f"{OPD} --steps 60"},
            higher="effopd",
            lower="opd, longer",
            rule=Within(0.05),
        ),
    ),
)
