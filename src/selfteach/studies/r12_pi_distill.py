"""π-Distill: privileged teacher and student in one network, both with a reward."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor", {**SHORT, **PLAIN, "lr": 3e-4, "place": "user", "per_prompt": 8, "steps": 150, "prompts": 8}
)

PI = f"pi-distill --task tutor {SLOW} {ROWS} {ADAMS} --clip-high 0.28"

STUDY = Study(
    method="pi-distill",
    model=UNSURE,
    claims=(
        Claim(
            says="Training on the teacher's answers beats reinforcement (41.1; SFT with RL 32.3; TravelPlanner)",
            variants={"pi-distill": PI, "grpo": REINFORCED},
            higher="pi-distill",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and so does its on-policy self-distillation with a reward (37.5, the same)",
            variants={"opsd": f"{PI} --form opsd", "grpo": REINFORCED},
            higher="opsd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
