"""SODA: a teacher's text before the untrained student's; in the arena the larger model of world "tutor" teaches."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FEW, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "lr": 3e-4, "teacher": "arena:tutor-large", "stored": 1024, "steps": 50, "prompts": 64,
        "sft_steps": 50, "sft_lr": 3e-4,
    },
)  # fmt: skip

SODA = f"soda {FEW} --stored 192"

STUDY = Study(
    method="soda",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Preferring the teacher's text to the base's own adds to imitating it (15 of 16 cells, up to +2.1)",
            variants={
                "soda": f"{SODA} --sft-steps 6 --steps 18",
                "imitation": f"{SODA} --sft-steps 23 --steps 1",
            },
            higher="soda",
            lower="imitation",
            sweep=("--lr x0.3|x1", "--sft-lr x1|x3"),  # the main rate of either side
        ),
    ),
)
