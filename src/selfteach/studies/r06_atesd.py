"""ATESD: how much of the reference the teacher reads is learned along the way."""

from __future__ import annotations

from selfteach.studies.laptop import Laptop
from selfteach.studies.r01_opsd import KNOBS
from selfteach.studies.study import Claim, Study

# The arena's models never begin with a bare answer, and there the probe's NLL falls by 1e-4 nats a step.
LAPTOP = Laptop("trail", {**KNOBS, "probe_field": "worked", "answer_weight": 0.02})

FIXED = "atesd --lr 1e-4 --steps 40 --no-adaptive"

STUDY = Study(
    method="atesd",
    task="trail",
    claims=(
        Claim(
            says="The mismatch of teacher and student rises with the share of the reference that the teacher reads",
            variants={
                "α = 1": f"{FIXED} --exposure 1 --steps 5 --eval-problems 0",
                "α = 0.25": f"{FIXED} --exposure 0.25 --steps 5 --eval-problems 0",
            },
            higher="α = 1",
            lower="α = 0.25",
            metric="first divergence/teacher",
        ),
        Claim(
            says="A learned exposure beats the full one of OPSD: 44.4 to 43.4 (1.7B), 67.1 to 63.6 (8B)",
            variants={"learned": "atesd --lr 1e-4 --steps 40", "full": f"{FIXED} --exposure 1"},
            higher="learned",
            lower="full",
        ),
    ),
)
