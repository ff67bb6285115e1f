"""ExOPD: distillation that goes past the teacher. The teacher is made first, from the same base model."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FEW, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "estimator": "full", "steps": 150,
        "prompts": 64,
    },
)  # fmt: skip

BACK = f"exopd --task tutor --steps 24 {FEW} --teacher {{variant teacher}}/model"
VARIANTS = {
    "teacher": f"opsd --task tutor --steps 3 {FEW}",
    "opd": f"{BACK} --reward-scale 1",
    "exopd": f"{BACK} --reward-scale 1.25",
}

STUDY = Study(
    method="exopd",
    model=UNSURE,
    claims=(
        Claim(
            says="Distilled back into the model it came from, λ = 1.25 beats λ = 1: 48.0 against 46.5 (Qwen3-4B, math)",
            variants=VARIANTS,
            higher="exopd",
            lower="opd",
        ),
        Claim(
            says="and goes past the teacher itself: 48.0 against 46.0 (Qwen3-4B, math)",
            variants=VARIANTS,
            higher="exopd",
            lower="teacher",
        ),
    ),
)
