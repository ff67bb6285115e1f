"""TIP: distillation on the tokens that matter."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop("tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64})

TIP = f"tip --task tutor {FAST} {FEW}"

STUDY = Study(
    method="tip",
    model=UNSURE,
    claims=(
        Claim(
            says="Half of the tokens by soft-or beat all of them: 79.1 against 76.7 (Qwen3-4B, MATH-500)",
            variants={"soft-or 50 %": f"{TIP} --rho 0.5", "all": f"{TIP} --rho 1"},
            higher="soft-or 50 %",
            lower="all",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A tenth of them, confident and wrong ones, comes near all: 76.1 against 76.7 (Qwen3-4B, MATH-500)",
            variants={"q3 10 %": f"{TIP} --score q3 --rho 0.1", "all": f"{TIP} --rho 1"},
            higher="all",
            lower="q3 10 %",
            tuned_by=AREA,
            rule=Within(0.05),
        ),
    ),
)
