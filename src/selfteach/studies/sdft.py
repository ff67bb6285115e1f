"""SDFT: learning from demonstrations on the model's own tokens."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "table", {**SHORT, **ADAM, **MUTE, "ema_decay": 0.95, "skip_tokens": 0, "steps": 150, "prompts": 64}
)

SFT = f"sft {FAST} {FEW} --lr 1e-3 --reference worked --betas 0.9 0.95 --mean-over sequences"
SDFT = f"sdft {FAST} {FEW}"

STUDY = Study(
    method="sdft",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="On-policy learning from a demonstration beats fine-tuning on it: more of the new is learned",
            variants={"sdft": SDFT, "sft": SFT},
            higher="sdft",
            lower="sft",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="An average of the student teaches better than its initial weights (ablation)",
            variants={"average": SDFT, "frozen": f"{SDFT} --weights frozen"},
            higher="average",
            lower="frozen",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
