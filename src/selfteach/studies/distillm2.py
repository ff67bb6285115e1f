"""DistiLLM-2: a loss for each kind of text."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop("tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 32})

DISTILLM2 = f"distillm2 {FAST} {FEW}"

STUDY = Study(
    method="distillm2",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="A skew for each answer is better than one for all (ablation)",
            variants={"curriculum": DISTILLM2, "fixed": f"{DISTILLM2} --no-curriculum"},
            higher="curriculum",
            lower="fixed",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A growing coefficient of the student's texts is better than a constant one (ablation)",
            variants={"growing": DISTILLM2, "constant": f"{DISTILLM2} --beta-end 1"},
            higher="growing",
            lower="constant",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
