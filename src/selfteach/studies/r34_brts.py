"""BRTS: the teacher's best answer beside one's own."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {**SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "lr": 3e-4, "steps": 100, "prompts": 32},
)

BRTS = f"brts --task tutor {FAST} --prompts 4"

STUDY = Study(
    method="brts",
    model=UNSURE,
    claims=(
        Claim(
            says="The teacher's selected answers add to on-policy distillation (AIME and AMC, abstract)",
            variants={"brts": BRTS, "opd": f"{BRTS} --teacher-weight 0"},
            higher="brts",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Selected answers are worth more than the first that comes",
            variants={"best": BRTS, "first": f"{BRTS} --select first"},
            higher="best",
            lower="first",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="the arena's teacher is right in 0.999 and writes one text for a problem: the best of its "
            "answers is the first",
        ),
    ),
)
