"""REOPOLD: a floor under a teacher's reproof."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {**SHORT, **ADAM, "teacher": "arena:tutor-large", "explore_steps": 50, "steps": 150, "prompts": 64},
)

REOPOLD = f"reopold {SLOW} {SOME} --explore-steps 10"

STUDY = Study(
    method="reopold",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Tokens of high entropy alone, after a first phase, teach more than all of them (ablation)",
            variants={"refined": REOPOLD, "all": f"{REOPOLD} --refine-share 1"},
            higher="refined",
            lower="all",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
