"""DP-OPD: a student that is differentially private in its records."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "max_grad_norm": None, "teacher": "arena:tutor-large", "poisson_records": 8192,
        "delta": 1e-5, "reference": "worked", "prompts": 64, "steps": 60, "epsilon": 8.0,
    },
)  # fmt: skip

DPOPD = "dp-opd --task tutor --steps 24"

STUDY = Study(
    method="dp-opd",
    model=UNSURE,
    claims=(
        Claim(
            says="Half of the steps on the student's own text beat the data's text alone, at the same epsilon",
            variants={"on-policy": DPOPD, "off-policy": f"{DPOPD} --lmbda 0"},
            higher="on-policy",
            lower="off-policy",
        ),
    ),
)
