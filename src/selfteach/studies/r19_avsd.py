"""AVSD: what several views agree on, and a gated residual."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop("trail", {**SHORT, **ADAM, **MUTE, "teacher_thinking": None, "steps": 300, "prompts": 64})

AVSD = f"avsd {SLOW} {SOME} --task tutor"
RUMOR = f"{AVSD} --views solution partial rumor"

STUDY = Study(
    method="avsd",
    model=UNSURE,
    claims=(
        Claim(
            says="Three views together beat the solution alone by 2.2 points (Qwen3-4B, math, Avg@8)",
            variants={
                "three views": f"{AVSD} --views solution partial hint",
                "solution": f"{AVSD} --views solution",
            },
            higher="three views",
            lower="solution",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The gated residual beats the arithmetic mean, which follows one loud view, by 1.7 points",
            variants={"gated": RUMOR, "arithmetic": f"{RUMOR} --pooling arithmetic"},
            higher="gated",
            lower="arithmetic",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
