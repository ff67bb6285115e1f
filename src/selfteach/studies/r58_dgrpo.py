"""dGRPO: GRPO with a teacher in the reference's place."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "teacher": "arena:tutor-large",
        "lr": 3e-4,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
    },
)

DGRPO = f"dgrpo --task tutor {SLOW} {ROWS} {ADAMS}"

STUDY = Study(
    method="dgrpo",
    model=UNSURE,
    claims=(
        Claim(
            says="A KL to the teacher beside the reward beats GRPO alone (abstract)",
            variants={"dgrpo": DGRPO, "grpo": f"{DGRPO} --kl 0"},
            higher="dgrpo",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
