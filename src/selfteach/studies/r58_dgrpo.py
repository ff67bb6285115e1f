"""dGRPO: GRPO with a teacher in the reference's place."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study

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

DGRPO = f"dgrpo --task tutor --steps 80 {ROWS} {ADAMS}"

STUDY = Study(
    method="dgrpo",
    claims=(
        Claim(
            says="A KL to the teacher beside the reward beats GRPO alone (abstract)",
            variants={"dgrpo": DGRPO, "grpo": f"{DGRPO} --kl 0"},
            higher="dgrpo",
            lower="grpo",
        ),
    ),
)
