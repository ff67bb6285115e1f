"""CurioSFT: supervised fine-tuning that keeps its entropy."""

from __future__ import annotations

from selfteach.studies.laptop import FEW, PLAIN, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop("table", {**PLAIN, "lr": 3e-4, "max_tokens": 64, "steps": 300, "prompts": 64})

CURIO = f"curiosft --task tutor --steps 24 {FEW} --reference worked"

STUDY = Study(
    method="curiosft",
    model=UNSURE,
    claims=(
        Claim(
            says="The student stays more undecided than under SFT (its entropy on the demonstrations is higher)",
            variants={"curiosft": CURIO, "sft": f"{CURIO} --alpha 0"},
            higher="curiosft",
            lower="sft",
            metric="entropy/student",
            sweep=(),  # the rate alone moves entropy
            looked="at the end both are sure (0.007 and 0.008 nats); in the mean over training it is the more "
            "undecided one (0.021 against 0.019 in seeds 0 to 2), and --alpha 10 keeps 0.05 to 0.10, but learns "
            "nothing (0.39 against 0.97)",
        ),
    ),
)
